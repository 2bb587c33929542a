#include "core/step_end.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

// The kernels of a GPU are held to the same in tests/simt/step_end_test.cpp.

namespace mnemo {
namespace {

/// Two replicas of two tensors, of three and two elements.
struct TwoReplicas {
  std::vector<double> parameters = std::vector<double>(10, 1.0), gradient = std::vector<double>(10, 0.5), first = std::vector<double>(10),
                      second = std::vector<double>(10);
  std::vector<std::int64_t> offset{0, 3}, size{3, 2}, steps_RT{0, 0, 0, 0}, finite_steps{0, 0}, step{7};
  std::vector<std::uint8_t> frozen{0, 0, 0, 0}, active{1, 1}, learns{1, 1}, finite{1, 1}, updates{9, 9};
  std::vector<AdamScalars> scalars{{1e-2, 0.9, 0.999, 1e-8, 0}, {1e-2, 0.9, 0.999, 1e-8, 0}};
  std::vector<AdamRates> rates{{0, 0}, {0, 0}};
  std::vector<double> loss{2, 3}, accuracy{0.5, 0.25}, loss_sum{0, 0}, accuracy_sum{0, 0};

  void end() {
    step_end_cpu(StepEnd<double>{{parameters.data(), gradient.data(), first.data(), second.data(), offset.data(), size.data(), nullptr, frozen.data(),
                                  scalars.data(), rates.data(), nullptr, 2, 5, 2, false},
                                 loss.data(),
                                 accuracy.data(),
                                 active.data(),
                                 learns.data(),
                                 finite.data(),
                                 finite_steps.data(),
                                 loss_sum.data(),
                                 accuracy_sum.data(),
                                 steps_RT.data(),
                                 updates.data(),
                                 step.data(),
                                 nullptr});
  }
  bool moved(std::size_t replica, std::size_t element) const { return parameters[5 * replica + element] != 1; }
};

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
using Counts = std::vector<std::int64_t>;
using Flags = std::vector<std::uint8_t>;

TEST(StepEnd, CountsSumsAndUpdates) {
  TwoReplicas two;
  two.end();
  two.end();
  EXPECT_EQ(two.step, Counts{9});
  EXPECT_EQ(two.finite_steps, (Counts{2, 2}));
  EXPECT_EQ(two.steps_RT, (Counts{2, 2, 2, 2}));
  EXPECT_EQ(two.loss_sum, (std::vector<double>{4, 6}));
  EXPECT_EQ(two.accuracy_sum, (std::vector<double>{1, 0.5}));
  EXPECT_TRUE(two.moved(0, 0) && two.moved(1, 4));
}

TEST(StepEnd, AReplicaThatIsNotFiniteIsLeftAloneFromThenOn) {
  for (const bool by_loss : {true, false}) {
    TwoReplicas two;
    (by_loss ? two.loss[1] : two.gradient[5 + 4]) = by_loss ? kNan : -std::numeric_limits<double>::infinity();
    two.end();
    two.loss[1] = 3, two.gradient[5 + 4] = 0.5;  // healed too late
    two.end();
    EXPECT_EQ(two.finite, (Flags{1, 0}));
    EXPECT_EQ(two.finite_steps, (Counts{2, 0}));
    EXPECT_EQ(two.updates, (Flags{1, 0}));
    EXPECT_EQ(two.steps_RT, (Counts{2, 2, 0, 0}));
    EXPECT_FALSE(two.moved(1, 0));
    EXPECT_TRUE(two.moved(0, 0));
  }
}

TEST(StepEnd, AGradientOfHugeNumbersIsFinite) {
  TwoReplicas two;
  std::fill(two.gradient.begin(), two.gradient.end(), std::numeric_limits<double>::max());
  two.end();
  EXPECT_EQ(two.finite, (Flags{1, 1}));
}

// ---- clipping, and the learning rate of the step

TEST(StepEnd, AGradientLongerThanItsClipNormIsShortenedToIt) {
  TwoReplicas two;
  two.gradient = {3, -1, 2, 4, 1, 3, -1, 2, 4, 1};  // norm sqrt(31)
  two.scalars[1].clip_norm = 2;
  two.end();
  EXPECT_EQ(two.rates[0].gradient_scale, 1);
  EXPECT_DOUBLE_EQ(two.rates[1].gradient_scale, 2 / std::sqrt(31.0));
  EXPECT_DOUBLE_EQ(two.first[5], 0.1 * 3 * 2 / std::sqrt(31.0));
  EXPECT_DOUBLE_EQ(two.second[5 + 3], 0.001 * 16 * 4 / 31.0);
  two.scalars[1].clip_norm = 6;  // longer than the gradient
  two.end();
  EXPECT_EQ(two.rates[1].gradient_scale, 1);
}

TEST(StepEnd, TheNormIsOfWhatIsNotFrozen) {
  TwoReplicas two;
  two.gradient = {3, 0, 4, 12, kNan, 3, 0, 4, 12, 0};
  two.frozen[1] = 1;
  for (auto& scalars : two.scalars) scalars.clip_norm = 1;
  two.end();
  EXPECT_DOUBLE_EQ(two.rates[0].gradient_scale, 1.0 / 5);
  EXPECT_DOUBLE_EQ(two.rates[1].gradient_scale, 1.0 / 13);
}

TEST(StepEnd, ClippingHidesNoGradientThatIsNotFinite) {
  for (const double bad : {kNan, std::numeric_limits<double>::infinity(), -std::numeric_limits<double>::infinity(), 1e200}) {  // 1e400 is no float64
    TwoReplicas two;
    two.scalars[1].clip_norm = 1;
    two.gradient[5 + 4] = bad;
    two.end();
    EXPECT_EQ(two.finite, (Flags{1, 0})) << bad;
    EXPECT_FALSE(two.moved(1, 0));
  }
}

TEST(StepEnd, ALearningRateIsOfTheStepNotOfItsUpdates) {
  TwoReplicas two;  // seven steps are done
  two.scalars[0].warmup = 16;
  two.scalars[1].cosine_steps = 14;
  two.learns[0] = 0;
  two.end();
  two.learns[0] = 1;
  two.end();  // the ninth
  EXPECT_DOUBLE_EQ(two.rates[0].lr, 1e-2 * 9 / 16);
  EXPECT_DOUBLE_EQ(two.rates[1].lr, 1e-2 * (1 + std::cos(M_PI * 8 / 14)) / 2);
}

TEST(StepEnd, AFrozenTensorIsNeitherJudgedNorTouched) {
  TwoReplicas two;
  two.frozen[3] = 1;
  two.gradient[5 + 3] = kNan;
  two.end();
  EXPECT_EQ(two.finite, (Flags{1, 1}));
  EXPECT_EQ(two.steps_RT, (Counts{1, 1, 1, 0}));
  EXPECT_TRUE(two.moved(1, 0));
  EXPECT_FALSE(two.moved(1, 3));
}

TEST(StepEnd, WhoHasNothingToLearnFromIsCountedAndNotUpdated) {
  TwoReplicas two;
  two.learns[0] = 0;
  two.active[1] = 0, two.loss[1] = kNan;
  two.end();
  EXPECT_EQ(two.finite_steps, (Counts{1, 0}));
  EXPECT_EQ(two.loss_sum, (std::vector<double>{2, 0}));
  EXPECT_EQ(two.updates, (Flags{0, 0}));
  EXPECT_EQ(two.finite, (Flags{1, 1}));
  EXPECT_FALSE(two.moved(0, 0) || two.moved(1, 0));
}

}  // namespace
}  // namespace mnemo
