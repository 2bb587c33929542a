// What the far device forbids, and what a training step of each model costs on it.

#include "far_device.h"

#include "core/adam.h"
#include "core/device.h"
#include "core/gpu.h"
#include "experiments/run/trainer.h"
#include "testing_models.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <limits>
#include <map>

namespace mnemo {
namespace {

using torch::Tensor;

const torch::Device kFirst("far:0"), kSecond("far:1");

// ---- the device itself

Tensor pinned_zeros() { return torch::zeros({3}, torch::TensorOptions().pinned_memory(true)); }

TEST(FarDeathTest, TheHostCannotTouchDeviceMemory) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const auto on_device = torch::ones({3}, kSecond);
  EXPECT_DEATH(
      {
        volatile float value = on_device.data_ptr<float>()[1];
        (void)value;
      },
      "the host touched device memory");
  EXPECT_DEATH({ on_device.data_ptr<float>()[1] = 1; }, "the host touched device memory");
  auto pinned = pinned_zeros();
  EXPECT_DEATH({ pinned.data_ptr<float>()[16] = 1; }, "the host touched a byte beside a buffer");
}

TEST(FarDeathTest, TheHostCannotWriteWhatIsBeingUploaded) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_DEATH(
      {
        auto pinned = pinned_zeros();
        const auto on_device = pinned.to(kFirst, /*non_blocking=*/true);
        pinned.fill_(1);
      },
      "the host touched pinned memory in flight");
  auto pinned = pinned_zeros();
  const auto on_device = pinned.to(kFirst, /*non_blocking=*/true);
  EXPECT_EQ(on_device.sum().item<float>(), 0);  // waits
  pinned.fill_(1);
}

TEST(Far, TensorsOfTwoDevicesDoNotMeet) {
  const auto a = torch::ones({3}, kFirst), b = torch::ones({3}, kSecond), c = torch::ones({3});
  EXPECT_THROW(a + b, c10::Error);
  EXPECT_THROW(a + c, c10::Error);
  EXPECT_THROW(torch::cat({a, c}), c10::Error);
  EXPECT_THROW(a.index_select(0, torch::zeros({1}, torch::kInt64)), c10::Error);
  EXPECT_THROW(a.to(kSecond), c10::Error);
  EXPECT_EQ((a + torch::tensor(1.0)).sum().item<float>(), 6);  // a number may come from the host
}

TEST(Far, NewMemoryHoldsNonsense) {
  EXPECT_TRUE(torch::empty({5}, kFirst).isnan().all().item<bool>());
  EXPECT_EQ(torch::empty({5}, torch::TensorOptions().device(kFirst).dtype(torch::kInt64)).max().item<std::int64_t>(), -1);
}

// ---- records

TEST(FarRecord, IsDoneOnceAndAgainWithEachReplay) {
  const c10::DeviceGuard guard(kSecond);
  auto sum = torch::zeros({3}, kSecond), square = torch::Tensor();
  double one = 1;
  const auto record = record_gpu_graph([&] {
    sum.add_(one);
    square = sum * sum;
  });
  EXPECT_EQ(square.sum().item<float>(), 3);
  one = 100;  // what came from the host is recorded by value
  record->replay();
  record->replay();
  EXPECT_EQ(square.sum().item<float>(), 27);
}

TEST(FarRecord, ForbidsWaitsAndCopiesFromTheHost) {
  const c10::DeviceGuard guard(kSecond);
  const auto ones = torch::ones({3}, kSecond), on_host = torch::ones({3}), pinned = pinned_zeros();
  EXPECT_THROW(record_gpu_graph([&] { ones.sum().item<float>(); }), c10::Error);
  EXPECT_THROW(record_gpu_graph([&] { on_host.to(kSecond); }), c10::Error);
  EXPECT_THROW(record_gpu_graph([&] { pinned.to(kSecond, /*non_blocking=*/true); }), c10::Error);
  EXPECT_EQ(ones.sum().item<float>(), 3);  // after the failure nothing is recorded
}

// ---- the cost of a step

/// What `action` costs.
template <class Action>
far::Counts cost_of(const Action& action) {
  const auto before = far::counts();
  action();
  auto cost = far::counts();
  for (std::size_t i = 0; i < cost.size(); ++i) cost[i] -= before[i];
  return cost;
}

struct Trained {
  Trained(const ModelConfig& config, torch::Device device, const AdamScalars& scalars = {1e-3, 0.9, 0.999, 1e-8, 0})
      : model(make_model({&config, 1}, 12, torch::kFloat32, device)),
        adam(model->parameters, {scalars}),
        trainer(*model, adam, {{&data.table(), DrawStream(data.sampler(), 0, 16)}}) {}
  TestBatch data{40, 12, 16};
  std::unique_ptr<Model> model;
  Adam adam;
  Trainer trainer;
};

TEST(Far, AStepIsOneLaunchAndNothingElse) {
  // operations and kernels in the record that a step replays
  const std::map<std::string, std::int64_t> expected{{"one_layer_attention 2x4", 17},
                                                     {"one_layer_attention 2x4, dense", 191},
                                                     {"one_layer_attention 3x5, D=9, 1 layer", 21},
                                                     {"one_layer_attention 1x1, 8 layers", 35},
                                                     {"gpt 2 layers 2x4", 288},
                                                     {"gpt 2 layers 3x4, rope", 365},
                                                     {"gpt 1 layer 1x3", 199},
                                                     {"dam 3 heads", 17},
                                                     {"dam 3 heads, from_0, clamped", 17},
                                                     {"dam 1 head, 7 slots", 17},
                                                     {"dam retrieval", 15},
                                                     {"prefix_readout 3", 99},
                                                     {"prefix_readout per position", 99}};
  for (const auto& [name, config] : small_models()) {
    for (const auto device : {kFirst, kSecond}) {
      SCOPED_TRACE(name);
      constexpr std::int64_t kSteps = 10;
      Trained trained(config, device);
      for (std::int64_t step = 0; step < 2; ++step) trained.trainer.step(step);  // the second is recorded
      const auto buffers = far::buffers_taken(device.index());
      const auto cost = cost_of([&] {
        for (std::int64_t step = 2; step < 2 + kSteps; ++step) trained.trainer.step(step);
      });
      EXPECT_EQ(cost, (far::Counts{kSteps, 0, 0, 0, 0, 0}));
      const bool plain = name.find("dense") != name.npos || name.find("prefix") != name.npos ||
                         name.find("gpt") != name.npos;  // whose replay here takes, and gives back, what a graph keeps
      EXPECT_TRUE(plain || far::buffers_taken(device.index()) == buffers);
      fmt::print("{:38} on {}: {} operations and kernels\n", name, device.str(), far::size_of_record());
      ASSERT_TRUE(expected.contains(name));
      EXPECT_EQ(far::size_of_record(), expected.at(name));
    }
  }
}

TEST(Far, AClippedStepOfAScheduleCostsNoMore) {
  AdamScalars scalars{1e-3, 0.9, 0.999, 1e-8, 0.1};
  scalars.decoupled = true, scalars.clip_norm = 0.1, scalars.warmup = 4, scalars.cosine_steps = 100;
  Trained plain(small_models()[0].second, kSecond), trained(small_models()[0].second, kSecond, scalars);
  for (std::int64_t step = 0; step < 2; ++step) plain.trainer.step(step);
  const auto size = far::size_of_record();
  for (std::int64_t step = 0; step < 2; ++step) trained.trainer.step(step);
  EXPECT_EQ(far::size_of_record(), size);
  const auto cost = cost_of([&] {
    for (std::int64_t step = 2; step < 12; ++step) trained.trainer.step(step);
  });
  EXPECT_EQ(cost, (far::Counts{10, 0, 0, 0, 0, 0}));
}

/// What changes between steps is data on the device: the record stays.
TEST(Far, NothingButAMemoryThatMovesIsRecordedAnew) {
  for (const auto& [name, config] : small_models()) {
    SCOPED_TRACE(name);
    Trained trained(config, kSecond);
    auto& parameters = trained.model->parameters;
    const auto last = parameters.specs().size() - 1;
    parameters.set_frozen(0, last, true);
    for (std::int64_t step = 0; step < 3; ++step) trained.trainer.step(step);
    const auto replays = [&](std::int64_t step) {
      const auto ops = cost_of([&] { trained.trainer.step(step); })[far::op];
      return ops == 1;
    };
    parameters.set_frozen(0, 0, true);
    trained.trainer.step(3);  // the flags go up
    EXPECT_TRUE(replays(4));
    trained.adam.reset(0, {0, 1});
    EXPECT_TRUE(replays(5));
    const TestBatch other(40, 12, 16, 7);
    trained.trainer.begin_phase(0, other.table());
    EXPECT_EQ(replays(6), trained.model->memory() == nullptr);
    // what was frozen when the step was recorded learns once it is not
    const auto frozen = parameters.leaf(last).detach().cpu().clone();
    parameters.set_frozen(0, last, false);
    for (std::int64_t step = 7; step < 9; ++step) trained.trainer.step(step);
    EXPECT_FALSE(torch::equal(parameters.leaf(last).detach().cpu(), frozen));
  }
}

/// A model that asks for a number in mid-step, which no graph can hold.
class Waiting final : public Model {
 public:
  explicit Waiting(std::unique_ptr<Model> model) : Model(model->facts, model->parameters.replica(0)), model_(std::move(model)) {}
  std::unique_ptr<Model> replica(std::int64_t r) const override { return std::make_unique<Waiting>(model_->replica(r)); }
  torch::Tensor logits(const CellBatch& batch) override {
    sum_ += parameters.flat_RP().sum().item<double>();
    return model_->logits(batch);
  }

 private:
  std::unique_ptr<Model> model_;
  double sum_ = 0;
};

TEST(Far, AStepThatCannotBeRecordedIsMadeOperationByOperation) {
  const TestBatch data(40, 12, 16);
  const ModelConfig config = PrefixReadoutConfig{};
  std::vector<std::vector<double>> losses(2);
  for (const bool waits : {false, true}) {
    auto model = make_model({&config, 1}, 12, torch::kFloat32, kSecond);
    if (waits) model = std::make_unique<Waiting>(std::move(model));
    Adam adam(model->parameters, {{1e-2, 0.9, 0.999, 1e-8, 0}});
    Trainer trainer(*model, adam, {{&data.table(), DrawStream(data.sampler(), 0, 16)}});
    EXPECT_EQ(trainer.why_not_recorded(), "");
    for (std::int64_t step = 0; step < 5; ++step) losses[waits].push_back(trainer.step(step).loss_R.item<double>());
    EXPECT_EQ(trainer.why_not_recorded().empty(), !waits);
  }
  EXPECT_EQ(losses[0], losses[1]);
}

// ---- training

/// Losses [steps][R] of R replicas of which the second, if there is one, diverges; tensor 0 is frozen for a while, and the data are switched.
std::vector<std::vector<double>> losses_of_fifty_steps(const ModelConfig& config, std::int64_t R, torch::Device device) {
  const TestBatch before(30, 12, 16, 1), after(30, 12, 16, 2);
  std::vector<ModelConfig> configs(static_cast<std::size_t>(R), config);
  std::vector<AdamScalars> scalars(configs.size(), {3e-3, 0.9, 0.999, 1e-8, 0.01});
  if (R > 2) {
    scalars[2].decoupled = true, scalars[2].clip_norm = 1e-3;
    scalars[2].warmup = 8, scalars[2].cosine_steps = 50;
  }
  std::vector<TrainingData> data;
  for (std::size_t r = 0; r < configs.size(); ++r) {
    seed_of(configs[r]) = static_cast<std::uint32_t>(r);
    data.push_back({&before.table(), DrawStream(before.sampler(), static_cast<std::uint32_t>(r), 16)});
  }
  const auto model = make_model(configs, 12, torch::kFloat32, device);
  Adam adam(model->parameters, scalars);
  Trainer trainer(*model, adam, std::move(data));
  std::vector<std::vector<double>> losses;
  for (std::int64_t step = 0; step < 50; ++step) {
    if (step == 10 || step == 20) model->parameters.set_frozen(0, 0, step == 10);
    if (step == 25) trainer.begin_phase(0, after.table());
    if (step == 30 && R > 1) {
      torch::NoGradGuard no_grad;
      model->parameters.flat_RP()[1].fill_(std::numeric_limits<float>::quiet_NaN());
    }
    const auto loss_R = trainer.step(step).loss_R.cpu();
    losses.emplace_back(loss_R.data_ptr<double>(), loss_R.data_ptr<double>() + R);
  }
  EXPECT_EQ(trainer.finite_steps_R()[0].item<std::int64_t>(), 50);
  if (R > 1) {
    EXPECT_EQ(trainer.finite_steps_R()[1].item<std::int64_t>(), 30);
  }
  return losses;
}

TEST(FarTraining, FiftyStepsFollowTheCpu) {
  for (const auto& [name, config] : small_models()) {
    if (name.find("1x1") != name.npos) continue;  // learns nothing but the frequency of bits, and its gradients are rounding
    SCOPED_TRACE(name);
    for (const std::int64_t R : {1, 3}) {
      const auto cpu = losses_of_fifty_steps(config, R, torch::kCPU), far = losses_of_fifty_steps(config, R, kSecond);
      for (std::size_t step = 0; step < cpu.size(); ++step) {
        for (std::size_t r = 0; r < cpu[step].size(); ++r) {
          if (r == 1 && step >= 30) continue;
          ASSERT_NEAR(far[step][r], cpu[step][r], 1e-4 * cpu[step][r]) << "R = " << R << ", step " << step << ", replica " << r;
        }
      }
    }
  }
}

}  // namespace
}  // namespace mnemo
