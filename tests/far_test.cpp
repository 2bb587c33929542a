// What the far device forbids, and what a training step of each model costs on it.

#include "far_device.h"

#include "core/adam.h"
#include "core/device.h"
#include "experiments/run/trainer.h"
#include "testing_models.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

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
  Trained(const ModelConfig& config, torch::Device device)
      : model(make_model({&config, 1}, 12, torch::kFloat32, device)),
        adam(model->parameters, {{1e-3, 0.9, 0.999, 1e-8, 0}}),
        trainer(*model, adam, {{&data.table(), DrawStream(data.sampler(), 0, 16)}}) {}
  TestBatch data{40, 12, 16};
  std::unique_ptr<Model> model;
  Adam adam;
  Trainer trainer;
};

TEST(Far, AStepCostsWhatIsWrittenHere) {
  struct Cost {
    std::int64_t ops, waits, pinned, pageable, unordered;
    bool operator==(const Cost&) const = default;
  };
  // a memory goes up in every step, its counts beside it; of retrieval, which cells, truths and weights there are as well
  const std::map<std::string, Cost> expected{{"one_layer_attention 2x4", {186, 0, 3, 0, 0}},
                                             {"one_layer_attention 2x4, dense", {186, 0, 3, 0, 0}},
                                             {"one_layer_attention 3x5, D=9, 1 layer", {164, 0, 3, 0, 0}},
                                             {"one_layer_attention 1x1, 8 layers", {235, 0, 3, 0, 0}},
                                             {"dam 3 heads", {177, 2, 3, 2, 0}},
                                             {"dam 3 heads, from_0, clamped", {183, 2, 3, 2, 0}},
                                             {"dam 1 head, 7 slots", {177, 2, 3, 2, 0}},
                                             {"dam retrieval", {112, 5, 3, 5, 1}},
                                             {"prefix_readout 3", {94, 0, 3, 0, 0}},
                                             {"prefix_readout per position", {94, 0, 3, 0, 0}}};
  for (const auto& [name, config] : small_models()) {
    for (const auto device : {kFirst, kSecond}) {
      SCOPED_TRACE(name);
      constexpr std::int64_t kSteps = 10;
      Trained trained(config, device);
      for (std::int64_t step = 0; step < 2; ++step) trained.trainer.step(step);  // makes what later ones reuse
      const auto cost = cost_of([&] {
        for (std::int64_t step = 2; step < 2 + kSteps; ++step) trained.trainer.step(step);
      });
      const auto of = [&](far::Kind kind) { return cost[kind] / kSteps; };
      fmt::print("{:38} on {}: {} ops, {} waits, {} pinned and {} pageable uploads, {} unordered sums a step\n", name, device.str(), of(far::op),
                 of(far::wait), of(far::pinned_upload), of(far::pageable_upload), of(far::unordered_sum));
      ASSERT_TRUE(expected.contains(name));
      EXPECT_EQ((Cost{of(far::op), of(far::wait), of(far::pinned_upload), of(far::pageable_upload), of(far::unordered_sum)}), expected.at(name));
    }
  }
}

}  // namespace
}  // namespace mnemo
