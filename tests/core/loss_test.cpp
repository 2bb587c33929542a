#include "core/loss.h"

#include "core/loss_math.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cmath>
#include <limits>

namespace mnemo {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

TEST(Bce, IsExactAtEveryLogit) {
  for (const double z : {0.0, 1e-9, -0.5, 3.0, 19.9, 20.1, 36.0, -36.0, 700.0, -800.0}) {
    const auto logit = torch::tensor({z}, torch::kFloat64);
    const double of_one = std::max(z, 0.0) - z + std::log1p(std::exp(-std::abs(z)));
    const double of_zero = std::max(z, 0.0) + std::log1p(std::exp(-std::abs(z)));
    EXPECT_DOUBLE_EQ(bce_of_one(logit).item<double>(), of_one) << z;
    EXPECT_DOUBLE_EQ(bce_of_zero(logit).item<double>(), of_zero) << z;
  }
}

TEST(Bce, AcceptsInfiniteLogits) {
  const auto logit = torch::tensor({kInfinity, -kInfinity}, torch::kFloat64);
  EXPECT_EQ(bce_of_one(logit)[0].item<double>(), 0);
  EXPECT_EQ(bce_of_one(logit)[1].item<double>(), kInfinity);
  EXPECT_EQ(bce_of_zero(logit)[1].item<double>(), 0);
}

TEST(WeightedLoss, IsTheSumWithItsDerivative) {
  auto logits = torch::tensor({{-2.0, 0.5, 25.0}, {0.0, -30.0, 1.0}}, torch::kFloat64);
  const auto weight = torch::tensor({{{.1, .3}, {.2, .1}, {0., .3}}, {{.4, .1}, {.25, 0.}, {.0, .25}}}, torch::kFloat64);
  const auto loss = weighted_loss(logits, weight);
  const auto direct = (weight.select(2, 0) * bce_of_zero(logits) + weight.select(2, 1) * bce_of_one(logits)).sum(1);
  EXPECT_TRUE(torch::allclose(loss.loss_R, direct, 0, 1e-15));
  const double h = 1e-5;
  for (int r = 0; r < 2; ++r) {
    for (int n = 0; n < 3; ++n) {
      auto step = torch::zeros_like(logits);
      step[r][n] = h;
      const double slope = ((weighted_loss(logits + step, weight).loss_R - weighted_loss(logits - step, weight).loss_R)[r] / (2 * h)).item<double>();
      EXPECT_NEAR(loss.dlogits_RN[r][n].item<double>(), slope, 1e-9);
    }
  }
  EXPECT_NEAR(loss.accuracy_R[0].item<double>(), .1 + .1 + .3, 1e-15);
  EXPECT_NEAR(loss.accuracy_R[1].item<double>(), .5 * (.4 + .1) + .25 + .25, 1e-15);  // a logit of 0 is half right
}

TEST(WeightedLoss, EqualsTheArithmeticOfKernels) {
  for (const double z : {0.0, 1e-9, -0.5, 3.0, -19.9, 40.0, -300.0}) {
    for (const auto& [zero, one] : {std::pair(.3, .7), {1.0, 0.0}, {0.0, 1.0}}) {
      const Bce<double> bce(z);
      const auto loss = weighted_loss(torch::tensor({{z}}, torch::kFloat64), torch::tensor({{{zero, one}}}, torch::kFloat64));
      EXPECT_NEAR(bce.loss(zero, one), loss.loss_R.item<double>(), 1e-15 * std::max(1.0, std::abs(z))) << z;
      EXPECT_NEAR(bce.slope(zero, one), loss.dlogits_RN.item<double>(), 1e-15) << z;
      EXPECT_EQ(bce.right(zero, one), loss.accuracy_R.item<double>()) << z;
    }
    EXPECT_DOUBLE_EQ(Bce<double>::of_one(z, std::log1p(std::exp(-std::abs(z)))), bce_of_one(torch::tensor({z}, torch::kFloat64)).item<double>()) << z;
  }
}

/// A million cells of float32 weigh what they weigh.
TEST(WeightedLoss, SumsInDoublePrecision) {
  const auto weight = torch::full({1, 1'000'000, 2}, 0.5e-6, torch::kFloat32);
  const auto loss = weighted_loss(torch::zeros({1, 1'000'000}, torch::kFloat32), weight);
  EXPECT_EQ(loss.loss_R.scalar_type(), torch::kFloat64);
  EXPECT_NEAR(loss.accuracy_R.item<double>(), 1e6 * static_cast<double>(0.5e-6F), 1e-12);
}

TEST(WeightedLoss, AWeightOfZeroMeetsNoInfinity) {
  const auto logits = torch::tensor({{kInfinity}}, torch::kFloat64);
  const auto loss = weighted_loss(logits, torch::tensor({{{0.0, 1.0}}}, torch::kFloat64));
  EXPECT_EQ(loss.loss_R.item<double>(), 0);
  EXPECT_EQ(loss.dlogits_RN.item<double>(), 0);
}

}  // namespace
}  // namespace mnemo
