#include "experiments/run/trainer.h"

#include "core/safetensors.h"
#include "experiments/run/evaluate.h"
#include "experiments/run/theory.h"
#include "testing_models.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>
#include <torch/torch.h>

#include <cstdlib>
#include <fstream>

namespace mnemo {
namespace {

using torch::Tensor;

/// Model, optimizer and data of R replicas, and their training step.
struct Pack {
  Pack(std::vector<ModelConfig> configs, const std::vector<AdamScalars>& scalars, std::vector<std::uint32_t> seeds, torch::Dtype dtype,
       std::int64_t num_sequences = 40, std::int64_t length = 10, std::int64_t batch = 16)
      : sampler(RankSampler::zipf(num_sequences, 1)), model(make_model(configs, length, dtype, test_device())), adam(model->parameters, scalars) {
    for (const auto seed : seeds) tables.push_back(SequenceTable::random(seed, 0, num_sequences, length));
    std::vector<TrainingData> data;
    for (std::size_t r = 0; r < seeds.size(); ++r) data.push_back({&tables[r], DrawStream(sampler, seeds[r], batch)});
    trainer = std::make_unique<Trainer>(*model, adam, std::move(data));
  }
  RankSampler sampler;
  std::unique_ptr<Model> model;
  Adam adam;
  std::vector<SequenceTable> tables;
  std::unique_ptr<Trainer> trainer;
};

ModelConfig with_seed(ModelConfig config, std::uint32_t seed) {
  seed_of(config) = seed;
  return config;
}

TEST(Trainer, APackEqualsItsRunsAlone) {
  for (const auto& [name, config] : small_models()) {
    SCOPED_TRACE(name);
    std::vector<ModelConfig> configs;
    std::vector<AdamScalars> scalars;
    std::vector<std::uint32_t> seeds;
    for (std::uint32_t r = 0; r < 5; ++r) {
      configs.push_back(with_seed(config, r));
      scalars.push_back({1e-3 * (r + 1), 0.9, 0.999, 1e-8, r == 2 ? 0.1 : 0.0});
      seeds.push_back(10 + r);
    }
    Pack pack(configs, scalars, seeds, torch::kFloat64);
    std::vector<Tensor> losses;
    for (std::int64_t step = 0; step < 50; ++step) losses.push_back(pack.trainer->step(step).loss_R.clone());
    for (std::size_t r = 0; r < 5; ++r) {
      Pack alone({configs[r]}, {scalars[r]}, {seeds[r]}, torch::kFloat64);
      for (std::int64_t step = 0; step < 50; ++step) {
        EXPECT_NEAR(alone.trainer->step(step).loss_R.item<double>(),
                    losses[static_cast<std::size_t>(step)][static_cast<std::int64_t>(r)].item<double>(), 1e-6);
      }
      const auto key_bias_left_out = [&](const Tensor& row) {
        auto copy = row.clone();
        if (config.index() == 0) {  // its exact gradient is 0, and Adam amplifies rounding
          const auto index = pack.model->parameters.index_of("c_attn.bias");
          const auto begin = pack.model->parameters.offset(index), C = pack.model->parameters.specs()[index].shape[0] / 3;
          copy.slice(0, begin + C, begin + 2 * C).zero_();
        }
        return copy;
      };
      const auto difference =
          key_bias_left_out(pack.model->parameters.flat_RP()[static_cast<std::int64_t>(r)]) - key_bias_left_out(alone.model->parameters.flat_RP()[0]);
      EXPECT_LT(difference.abs().max().item<double>(), 1e-6) << "replica " << r;
    }
  }
}

TEST(Trainer, AReplicaThatDivergesStopsAloneAtItsLastFiniteWeights) {
  const auto config = small_models()[0].second;
  Pack pack({with_seed(config, 0), with_seed(config, 1)}, {{1e-3, 0.9, 0.999, 1e-8, 0}, {1e20, 0.9, 0.999, 1e-8, 0}}, {1, 2}, torch::kFloat32);
  for (std::int64_t step = 0; step < 20; ++step) pack.trainer->step(step);
  EXPECT_EQ(pack.trainer->finite_R()[0].item<int>(), 1);
  EXPECT_EQ(pack.trainer->finite_R()[1].item<int>(), 0);
  EXPECT_EQ(pack.trainer->finite_steps_R()[0].item<std::int64_t>(), 20);
  EXPECT_LT(pack.trainer->finite_steps_R()[1].item<std::int64_t>(), 5);
  EXPECT_TRUE(pack.model->parameters.flat_RP().isfinite().all().item<bool>());
}

TEST(Trainer, AReplicaFreezesAlone) {
  for (const auto& [name, config] : small_models()) {
    SCOPED_TRACE(name);
    const std::vector<AdamScalars> scalars(2, {1e-2, 0.9, 0.999, 1e-8, 0.1});
    Pack pack({with_seed(config, 1), with_seed(config, 2)}, scalars, {1, 2}, torch::kFloat64);
    Pack frozen_alone({with_seed(config, 1)}, {scalars[0]}, {1}, torch::kFloat64),
        free_alone({with_seed(config, 2)}, {scalars[0]}, {2}, torch::kFloat64);
    for (std::int64_t step = 0; step < 12; ++step) {
      if (step == 4 || step == 8) {
        pack.model->parameters.set_frozen(0, 1, step == 4);
        frozen_alone.model->parameters.set_frozen(0, 1, step == 4);
      }
      for (auto* each : {&pack, &frozen_alone, &free_alone}) each->trainer->step(step);
    }
    for (std::int64_t r = 0; r < 2; ++r) {
      auto& alone = r == 0 ? frozen_alone : free_alone;
      EXPECT_TRUE(torch::equal(pack.adam.steps_RT()[r], alone.adam.steps_RT()[0])) << "replica " << r;
      // the key bias, whose exact gradient is 0, is left out: Adam amplifies its rounding
      const auto leaf = [&](Pack& p, std::int64_t row) { return p.model->parameters.leaf(1).select(0, row).detach(); };
      EXPECT_LT((leaf(pack, r) - leaf(alone, 0)).abs().max().item<double>(), 1e-6) << "replica " << r;
    }
  }
}

TEST(Trainer, FrozenGroupsAreBitwiseUnchangedAfterAThousandSteps) {
  {
    const auto& config = small_models()[0].second;
    Pack pack({config}, {{1e-2, 0.9, 0.999, 1e-8, 0.1}}, {1}, torch::kFloat32, 20, 6, 4);
    for (std::int64_t step = 0; step < 20; ++step) pack.trainer->step(step);
    auto& parameters = pack.model->parameters;
    const auto group = parameters.specs()[2].group;
    const auto before = parameters.flat_RP().clone();
    for (const auto index : matching_parameters(parameters.specs(), group)) parameters.set_frozen(0, index, true);
    for (std::int64_t step = 20; step < 1020; ++step) pack.trainer->step(step);
    std::size_t changed = 0;
    for (std::size_t i = 0; i < parameters.specs().size(); ++i) {
      const auto begin = parameters.offset(i), end = begin + parameters.specs()[i].size();
      const bool same = torch::equal(before.slice(1, begin, end), parameters.flat_RP().slice(1, begin, end));
      EXPECT_TRUE(same || parameters.specs()[i].group != group) << parameters.specs()[i].name;
      changed += !same;
    }
    EXPECT_GE(changed, 6u);  // a dead unit's bias may rest at 0
  }
}

/// Ten losses of each small model beside those recorded earlier; MNEMO_UPDATE_RECORDED=1 records them anew.
TEST(Trainer, TenLossesAreAsRecorded) {
  const auto path = fs::path(MNEMO_SOURCE_DIR) / "tests/recorded/ten_losses.json";
  nlohmann::json measured;
  for (const auto& [name, config] : small_models()) {
    Pack pack({with_seed(config, 3)}, {{1e-2, 0.9, 0.999, 1e-8, 0}}, {7}, torch::kFloat64);
    for (std::int64_t step = 0; step < 10; ++step) measured[name].push_back(pack.trainer->step(step).loss_R.item<double>());
  }
  if (std::getenv("MNEMO_UPDATE_RECORDED") != nullptr) std::ofstream(path) << measured.dump(1) << "\n";
  const auto recorded = nlohmann::json::parse(read_file(path));
  ASSERT_EQ(recorded.size(), measured.size());
  for (const auto& [name, losses] : measured.items()) {
    for (std::size_t step = 0; step < 10; ++step) {
      EXPECT_NEAR(losses[step].get<double>(), recorded.at(name)[step].get<double>(), 1e-9) << name << ", step " << step;
    }
  }
}

}  // namespace
}  // namespace mnemo
