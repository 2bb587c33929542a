// The gate of `precision: tf32`: over 10,000 steps its losses are those of fp32. Our kernels run in the emulator, which rounds factors as a GPU does.

#include "core/adam.h"
#include "core/device.h"
#include "experiments/run/trainer.h"
#include "testing_models.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cmath>

namespace mnemo {
namespace {

/// Mean losses of successive stretches of steps, from the same weights and draws.
std::vector<double> losses(bool tf32, std::int64_t steps, std::int64_t stretch) {
  const ModelConfig config = OneLayerAttentionConfig{.heads = 1, .head_dim = 4, .mlp_layers = 1, .init_std = 0.3, .seed = 1};
  const TestBatch data(6, 5, 4);
  const auto model = make_model({&config, 1}, 5, torch::kFloat32, choose_device("cuda:0").device);
  model->forms.tf32 = tf32;
  Adam adam(model->parameters, {{3e-3, 0.9, 0.999, 1e-8, 0}});
  Trainer trainer(*model, adam, {{&data.table(), DrawStream(data.sampler(), 0, 4)}});
  std::vector<double> means;
  for (std::int64_t step = 0; step < steps; ++step) {
    trainer.step(step);
    if ((step + 1) % stretch != 0) continue;
    means.push_back(trainer.loss_sum_R()[0].item<double>() / static_cast<double>(stretch));
    trainer.loss_sum_R()[0].zero_();
  }
  return means;
}

TEST(Tf32, LossesOfTenThousandStepsAreThoseOfFp32) {
  constexpr std::int64_t kStretch = 500;
  const auto fp32 = losses(false, 10'000, kStretch), tf32 = losses(true, 10'000, kStretch);
  EXPECT_LT(fp32.back(), 0.8 * fp32.front());  // it learns
  double differs = 0;
  for (std::size_t i = 0; i < fp32.size(); ++i) {
    EXPECT_NEAR(tf32[i], fp32[i], 0.01 * fp32[i]) << "steps up to " << (i + 1) * kStretch;
    differs += std::abs(tf32[i] - fp32[i]);
  }
  EXPECT_GT(differs, 0);  // it is another arithmetic
}

}  // namespace
}  // namespace mnemo
