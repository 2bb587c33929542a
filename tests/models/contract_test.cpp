// What every model promises, over every model in the registry.

#include "core/adam.h"
#include "experiments/run/evaluate.h"
#include "testing_models.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <set>

namespace mnemo {
namespace {

using torch::Tensor;

TEST(ModelContract, CoversTheRegistry) {
  std::set<std::size_t> seen;
  for (const auto& [name, config] : small_models()) seen.insert(config.index());
  EXPECT_EQ(seen.size(), std::variant_size_v<ModelConfig>);
}

TEST(ModelContract, ReplicasDifferInScalarsAlone) {
  const auto refusal = [](const ModelConfig& a, const ModelConfig& b) -> std::string {
    try {
      make_model(std::vector{a, b}, 8, torch::kFloat32, torch::kCPU);
    } catch (const std::invalid_argument& error) {
      return error.what();
    }
    return "accepted";
  };
  OneLayerAttentionConfig two_by_eight, four_by_four;  // tensors of the same names and shapes
  two_by_eight.heads = 2, two_by_eight.head_dim = 8;
  four_by_four.heads = 4, four_by_four.head_dim = 4;
  EXPECT_EQ(refusal(two_by_eight, four_by_four), "[make_model] replica 1 is of another model than replica 0: model.heads: 2, 4");
  DamConfig exact, clamped, other_eta;
  clamped.probabilities = "clamped";
  other_eta.eta = 3, other_eta.init_std = 0.5, other_eta.seed = 9;
  EXPECT_THAT(refusal(exact, clamped), testing::HasSubstr("model.probabilities"));
  EXPECT_THAT(refusal(exact, two_by_eight), testing::HasSubstr("model.kind"));
  EXPECT_EQ(refusal(exact, other_eta), "accepted");
}

TEST(ModelContract, AReplicaIsAModelOfItsOwnWithTheSameWeightsAndMemory) {
  for (const auto& [name, config] : small_models()) {
    SCOPED_TRACE(name);
    const TestBatch data(20, 7, 16);
    std::vector<ModelConfig> configs{config, config};
    seed_of(configs[0]) = 3, seed_of(configs[1]) = 4;
    const auto pack = make_model(configs, 7, torch::kFloat64, test_device());
    const std::vector<std::int32_t> drawn{1, 2, 2, 5};
    if (auto* memory = pack->memory()) {
      for (std::int64_t r = 0; r < 2; ++r) memory->begin_phase(r, 0, data.table(), /*clear=*/true);
      memory->observe(1, drawn);
    }
    const auto second = pack->replica(1), alone = make_model({&configs[1], 1}, 7, torch::kFloat64, test_device());
    if (auto* memory = alone->memory()) {
      memory->begin_phase(0, 0, data.table(), /*clear=*/true);
      memory->observe(0, drawn);
      EXPECT_TRUE(torch::equal(second->memory()->bits(0), memory->bits(0)));
      EXPECT_TRUE(pack->memory()->empty(0));
    }
    const auto rows = data.rows_for(*alone);
    EXPECT_TRUE(torch::equal(second->score(rows).loss_RUP, alone->score(rows).loss_RUP));
    second->parameters.leaf(0).detach().fill_(0.25);
    EXPECT_EQ(pack->parameters.leaf(0).select(0, 1).min().item<double>(), 0.25);
    EXPECT_NE(pack->parameters.leaf(0).select(0, 0).min().item<double>(), 0.25);
  }
}

TEST(ModelContract, SharedCellsGiveTheGradientOfAllCells) {
  for (const auto& [name, config] : small_models()) {
    SCOPED_TRACE(name);
    for (const std::int64_t length : {2, 7, 20}) {
      for (const std::int64_t batch : {1, 3, 40}) {
        const TestBatch data(30, length, batch, 5);
        const auto model = lively_model(config, length, torch::kFloat64);
        const auto shared = model->gradient(data.rows_for(*model));
        const auto shared_gradient = model->parameters.gradient_RP().clone();
        const auto plain = model->gradient(data.rows_for(*model, Sharing::none));
        EXPECT_NEAR(shared.loss_R.item<double>(), plain.loss_R.item<double>(), 1e-12);
        EXPECT_NEAR(shared.accuracy_R.item<double>(), plain.accuracy_R.item<double>(), 1e-12);
        EXPECT_LT((shared_gradient - model->parameters.gradient_RP()).abs().max().item<double>(), 1e-12);
      }
    }
  }
}

TEST(ModelContract, GradientIsThatOfTheLossByCentralDifferences) {
  for (const auto& [name, config] : small_models()) {
    SCOPED_TRACE(name);
    const TestBatch data(10, 6, 8, 3);
    const auto model = lively_model(config, 6, torch::kFloat64);
    const auto rows = data.rows_for(*model);
    model->gradient(rows);
    const auto gradient = model->parameters.gradient_RP().clone();
    auto flat = model->parameters.flat_RP();
    for (std::int64_t i = 0; i < flat.size(1); i += 1 + flat.size(1) / 60) {
      auto element = flat[0][i];
      const double value = element.item<double>(), h = 1e-5;
      const auto loss_at = [&](double x) {
        element.fill_(x);
        return model->gradient(rows).loss_R.item<double>();
      };
      const double slope = (loss_at(value + h) - loss_at(value - h)) / (2 * h);
      element.fill_(value);
      EXPECT_NEAR(gradient[0][i].item<double>(), slope, 1e-7) << "element " << i;
    }
  }
}

TEST(ModelContract, NoLogitSeesItsOwnOrLaterBits) {
  const std::int64_t length = 9;
  for (const auto& [name, config] : small_models()) {
    SCOPED_TRACE(name);
    if (facts_of(config, 8).task == Task::sequences) continue;  // its memory is the sequences themselves
    const auto model = lively_model(config, length, torch::kFloat64);
    const auto first = model->facts.first_predicted_bit;
    torch::NoGradGuard no_grad;
    auto bits = SequenceTable::random(4, 0, 3, length).unpack_all();
    const auto logits_of = [&] {
      const TestBatch data(SequenceTable::from_array(view_of(bits.data(), {3, length})));
      return model->logits(data.rows_for(*model, Sharing::none)).view({3, length - first}).clone();
    };
    const auto before = logits_of();
    for (std::int64_t j = 0; j < length; ++j) {
      auto& bit = bits[static_cast<std::size_t>(length + j)];  // of the second row
      bit = 1 - bit;
      const auto after = logits_of();
      bit = 1 - bit;
      // column c predicts bit c + first from the bits before it; bitwise equal, since the shapes are
      const auto unseen = j + 1 - first;
      EXPECT_TRUE(torch::equal(before.slice(1, 0, unseen), after.slice(1, 0, unseen))) << "bit " << j;
      EXPECT_TRUE(torch::equal(before[0], after[0]) && torch::equal(before[2], after[2]));
      const bool is_seen = j + 1 < length && name.find("1x1") == std::string::npos;  // LayerNorm of width 1 forgets its input
      EXPECT_TRUE(!is_seen || !torch::equal(before[1][unseen], after[1][unseen])) << "bit " << j;
    }
  }
}

TEST(ModelContract, Float32StaysNearFloat64) {
  for (const auto& [name, config] : small_models()) {
    SCOPED_TRACE(name);
    const TestBatch data(100, 20, 32, 1);
    const auto exact = lively_model(config, 20, torch::kFloat64), rounded = lively_model(config, 20, torch::kFloat32);
    exact->gradient(data.rows_for(*exact));
    rounded->gradient(data.rows_for(*rounded));
    const auto reference = exact->parameters.gradient_RP();
    const auto row = [&](const Model& model) {
      std::vector<Tensor> parts;
      for (std::size_t i = 0; i < model.parameters.specs().size(); ++i)
        parts.push_back(model.parameters.leaf(i).grad().to(torch::kFloat64).flatten());
      return torch::cat(parts);
    };
    EXPECT_LT((row(*rounded) - row(*exact)).norm().item<double>(), 2e-5 * row(*exact).norm().item<double>());
  }
}

TEST(ModelContract, FrozenParametersGetNoGradient) {
  for (const auto& [name, config] : small_models()) {
    SCOPED_TRACE(name);
    const TestBatch data(20, 8, 16);
    const auto model = lively_model(config, 8, torch::kFloat64);
    auto& parameters = model->parameters;
    for (std::size_t i = 0; i < parameters.specs().size(); ++i) parameters.set_frozen(0, i, true);
    model->gradient(data.rows_for(*model));
    EXPECT_EQ(parameters.gradient_RP().abs().max().item<double>(), 0);
    const auto last = parameters.specs().size() - 1;
    parameters.set_frozen(0, last, false);
    model->gradient(data.rows_for(*model));
    EXPECT_GT(parameters.leaf(last).grad().abs().max().item<double>(), 0);
    EXPECT_EQ(parameters.leaf(0).grad().abs().max().item<double>(), 0);
  }
}

TEST(ModelContract, EvaluationIsTheLossOfEachSequenceAndChangesNothing) {
  for (const auto& [name, config] : small_models()) {
    SCOPED_TRACE(name);
    const TestBatch data(60, 10, 8, 2);
    const auto model = lively_model(config, 10, torch::kFloat64);
    model->gradient(data.rows_for(*model));
    const auto weights = model->parameters.flat_RP().clone(), gradient = model->parameters.gradient_RP().clone();
    const std::vector<std::int32_t> ranks{0, 50, 7, 3};
    const auto scores = score(*model, data.table(), ranks);
    EXPECT_TRUE(torch::equal(weights, model->parameters.flat_RP()) && torch::equal(gradient, model->parameters.gradient_RP()));
    for (std::size_t i = 0; i < ranks.size(); ++i) {
      const auto cells = cells_of_batch(data.table(), std::span(ranks).subspan(i, 1), Sharing::prefixes, model->facts.first_predicted_bit);
      const auto& table = data.table();
      const auto alone = model->gradient(CellBatch({{&cells, &table}}, torch::kFloat64, test_device()));
      EXPECT_NEAR(scores.loss[i], alone.loss_R.item<double>(), 1e-6 * std::max(1.0, alone.loss_R.item<double>()));
      EXPECT_NEAR(scores.accuracy[i], alone.accuracy_R.item<double>(), 1e-6);
    }
  }
}

}  // namespace
}  // namespace mnemo
