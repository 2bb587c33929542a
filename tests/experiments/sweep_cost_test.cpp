#include "experiments/sweep/local.h"
#include "support.h"
#include "test_device.h"

#include <fmt/format.h>

namespace mnemo {
namespace {

using test::spill;
using test::TemporaryDirectory;

StepCost cost_of(std::int64_t head_dim) {
  const TemporaryDirectory folder;
  spill(folder / "f.yaml", fmt::format("name: a\ndevice: {}\nthreads: 1\ndata: {{num_sequences: 12, length: 6}}\ntrain: {{steps: 5, batch_size: 4}}\n"
                                       "model: {{kind: one_layer_attention, heads: 2, head_dim: {}, mlp_layers: 1}}\n",
                                       test_device_name(), head_dim));
  const auto cost = cost_of_step(load_config(folder / "f.yaml", {}).config);
  EXPECT_TRUE(cost);
  return cost.value_or(StepCost{});
}

TEST(StepCost, APackHasOneRunOnTheCpuAndAsManyAsFitOnAGpu) {
  const auto small = cost_of(4), large = cost_of(64);
  EXPECT_GT(small.seconds, 0);
  if (test_device().is_cpu()) {
    EXPECT_EQ(small.max_pack, 1);
    return;
  }
  EXPECT_GT(large.max_pack, 1);
  EXPECT_GT(small.max_pack, large.max_pack);
}

TEST(SweepPacks, AllWorkersHaveSome) {
  EXPECT_EQ(default_max_pack(StepCost{1e-3, 64}, 100, 1), 64);
  EXPECT_EQ(default_max_pack(StepCost{1e-3, 64}, 100, 4), 25);
  EXPECT_EQ(default_max_pack(StepCost{1e-3, 64}, 5, 4), 2);
  EXPECT_EQ(default_max_pack(StepCost{1e-3, 1}, 100, 4), 1);
  EXPECT_EQ(default_max_pack({}, 100, 4), 1);
}

}  // namespace
}  // namespace mnemo
