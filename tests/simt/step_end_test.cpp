// The end of a step against the same in plain C++, replica by replica, through a freeze, a pause and several ways to diverge: equal bits.

#include "adam_state.h"
#include "core/step_end.h"

#include <cmath>

namespace mnemo {
namespace {

using simt::Device;

constexpr double kInfinity = std::numeric_limits<double>::infinity();

template <class Real>
struct State {
  AdamState<Real> adam;
  std::vector<double> loss_R, accuracy_R, loss_sum_R, accuracy_sum_R;
  std::vector<std::uint8_t> active_R, learns_R, finite_R;
  std::vector<std::int64_t> finite_steps_R;
  std::int64_t step = 0;

  State(const std::vector<std::int64_t>& sizes, std::size_t replicas)
      : adam(sizes, std::vector<std::uint8_t>(replicas * sizes.size()), std::vector<std::uint8_t>(replicas)),
        loss_R(replicas),
        accuracy_R(replicas),
        loss_sum_R(replicas),
        accuracy_sum_R(replicas),
        active_R(replicas, 1),
        learns_R(replicas, 1),
        finite_R(replicas, 1),
        finite_steps_R(replicas) {}

  /// Trainer::step() after the gradient.
  void end_step() {
    ++step;
    const auto tensors = adam.size_T.size();
    for (std::size_t r = 0; r < loss_R.size(); ++r) {
      adam.updates_R[r] = 0;
      if (!active_R[r] || !finite_R[r]) continue;
      bool finite = std::isfinite(loss_R[r]);
      double squared = 0;
      for (std::size_t t = 0; t < tensors; ++t) {
        if (adam.frozen_RT[r * tensors + t]) continue;
        for (auto i = adam.element(r, t, 0); i < adam.element(r, t, adam.size_T[t]); ++i) {
          const double value = adam.gradient[i];
          finite = finite && std::isfinite(value);
          squared += value * value;
        }
      }
      finite_R[r] = finite;
      finite_steps_R[r] += finite;
      loss_sum_R[r] += loss_R[r], accuracy_sum_R[r] += accuracy_R[r];
      adam.updates_R[r] = finite && learns_R[r];
      const auto clip = adam.scalars_R[r].clip_norm;
      if (adam.updates_R[r])
        adam.rates_R[r] = {learning_rate(adam.scalars_R[r], step), clip > 0 && std::sqrt(squared) > clip ? clip / std::sqrt(squared) : 1};
      for (std::size_t t = 0; t < tensors; ++t) adam.steps_RT[r * tensors + t] += adam.updates_R[r] && !adam.frozen_RT[r * tensors + t];
    }
    adam.step();
  }

  auto outputs() const {
    return std::tuple(adam.parameters, adam.first_moment, adam.second_moment, adam.steps_RT, adam.updates_R, finite_R, finite_steps_R, loss_sum_R,
                      accuracy_sum_R, std::vector<std::int64_t>{step});
  }
};

template <class Real>
auto ended_on_device(const State<Real>& s) {
  const DeviceAdam<Real> adam(s.adam);
  const Device<double> loss(s.loss_R), accuracy(s.accuracy_R), loss_sum(s.loss_sum_R), accuracy_sum(s.accuracy_sum_R);
  const Device<std::uint8_t> active(s.active_R), learns(s.learns_R), finite(s.finite_R), updates(s.loss_R.size()),
      work(step_end_work(adam.buffers()));
  const Device<std::int64_t> finite_steps(s.finite_steps_R), steps(s.adam.steps_RT), step({s.step});
  auto buffers = adam.buffers();
  buffers.steps = nullptr, buffers.updates = nullptr;
  step_end_cuda<Real>({buffers, loss, accuracy, active, learns, finite, finite_steps, loss_sum, accuracy_sum, steps, updates, step, work}, nullptr);
  return std::tuple(adam.parameters.host(), adam.first_moment.host(), adam.second_moment.host(), steps.host(), updates.host(), finite.host(),
                    finite_steps.host(), loss_sum.host(), accuracy_sum.host(), step.host());
}

template <class Real>
class StepEndKernels : public ::testing::Test {};
using Reals = ::testing::Types<float, double>;
TYPED_TEST_SUITE(StepEndKernels, Reals);

TYPED_TEST(StepEndKernels, EndStepsAsTheTrainerDoes) {
  State<TypeParam> s({7, 300, 1}, 6);
  s.adam.steps_RT.assign(18, 0);
  simt::Random random;
  const auto gradient = [&](std::size_t replica, std::size_t tensor, std::int64_t i) -> TypeParam& {
    return s.adam.gradient[s.adam.element(replica, tensor, i)];
  };
  for (int step = 0; step < 8; ++step) {
    SCOPED_TRACE("step " + std::to_string(step));
    s.adam.draw_gradient(random);
    for (auto* values : {&s.loss_R, &s.accuracy_R}) *values = random.normals<double>(values->size(), 1);
    s.learns_R[0] = step != 0;                   // an empty memory, at first
    s.active_R[1] = step < 2 || step > 4;        // pauses, and would diverge meanwhile
    s.adam.frozen_RT[2 * 3 + 1] = step % 4 > 1;  // freezes and goes on
    if (step == 3) s.loss_R[1] = NAN, gradient(1, 0, 0) = NAN;
    if (step == 3) gradient(2, 1, 299) = NAN;  // of a frozen tensor
    if (step == 2) gradient(3, 1, 299) = static_cast<TypeParam>(-kInfinity);
    if (step == 4) s.loss_R[4] = kInfinity;
    if (step == 6) gradient(5, 2, 0) = NAN, s.learns_R[5] = 0;
    const auto got = simt::in_every_order([&] { return ended_on_device(s); });
    s.end_step();
    ASSERT_TRUE(simt::agree(got, s.outputs()));
  }
  EXPECT_EQ(s.finite_R, (std::vector<std::uint8_t>{1, 1, 1, 0, 0, 0}));
  EXPECT_EQ(s.finite_steps_R, (std::vector<std::int64_t>{8, 5, 8, 2, 4, 6}));
  EXPECT_EQ(s.adam.steps_RT, (std::vector<std::int64_t>{7, 7, 7, 5, 5, 5, 8, 4, 8, 2, 2, 2, 4, 4, 4, 6, 6, 6}));
}

/// A pack in which some are clipped, and each has a schedule of its own.
TYPED_TEST(StepEndKernels, ClipTheGradientAndFollowTheSchedule) {
  State<TypeParam> s({7, 300}, 3);
  s.adam.steps_RT.assign(6, 0);
  auto& scalars = s.adam.scalars_R;
  scalars[0].warmup = 2, scalars[0].cosine_steps = 5;
  scalars[1].warmup = 4;  // not clipped
  scalars[2].clip_norm = .5, scalars[2].decoupled = true;
  simt::Random random;
  for (int step = 0; step < 4; ++step) {
    SCOPED_TRACE("step " + std::to_string(step));
    s.adam.draw_gradient(random);
    for (auto& value : s.adam.gradient) value = std::round(16 * value) / 16;  // so that squares add up to the same in every order
    for (auto* values : {&s.loss_R, &s.accuracy_R}) *values = random.normals<double>(values->size(), 1);
    scalars[0].clip_norm = step == 1 ? 1e3 : 3;  // longer than any gradient
    s.adam.frozen_RT[1] = step == 2;             // most of the norm
    if (step == 2) s.adam.gradient[s.adam.element(0, 1, 5)] = NAN;
    if (step == 3) s.adam.gradient[s.adam.element(1, 1, 299)] = NAN;
    if (step == 2) s.adam.gradient[s.adam.element(2, 0, 0)] = static_cast<TypeParam>(-kInfinity);
    const auto got = simt::in_every_order([&] { return ended_on_device(s); });
    s.end_step();
    ASSERT_TRUE(simt::agree(got, s.outputs()));
  }
  EXPECT_EQ(s.finite_steps_R, (std::vector<std::int64_t>{4, 3, 2}));
}

/// Without a float64 that holds it there is no norm to scale by; a replica that is not clipped asks for none.
TEST(StepEnd, ANormBeyondFloat64IsNotFinite) {
  State<double> s({2}, 2);
  for (auto& value : s.adam.gradient) value = 1e200;
  s.adam.scalars_R[0].clip_norm = 1;
  EXPECT_EQ(std::get<5>(ended_on_device(s)), (std::vector<std::uint8_t>{0, 1}));
}

TYPED_TEST(StepEndKernels, SeeEveryElementOfALargeTensor) {
  for (const std::int64_t i : {0, 255, 256, 511, 512, 1023, 1024, 1299}) {
    State<TypeParam> s({1300, 2}, 1);
    for (const double clip_norm : {0., 1.}) {
      s.adam.scalars_R[0].clip_norm = clip_norm;
      auto broken = s;
      broken.adam.gradient[s.adam.element(0, 0, i)] = NAN;
      EXPECT_EQ(std::get<5>(ended_on_device(s)), std::vector<std::uint8_t>{1});
      EXPECT_EQ(std::get<5>(ended_on_device(broken)), std::vector<std::uint8_t>{0}) << i;
    }
  }
}

#ifndef __CUDACC__  // it is the emulator that names launches
TEST(StepEnd, IsThreeLaunches) {
  const State<float> s({1}, 1);
  EXPECT_EQ(simt::launched_by([&] { ended_on_device(s); }),
            (std::vector<std::string>{"finite_kernel<float>", "judge_kernel<float>", "adam_kernel<float>"}));
  auto clipped = s;
  clipped.adam.scalars_R[0].clip_norm = 1;
  EXPECT_EQ(simt::launched_by([&] { ended_on_device(clipped); }),
            (std::vector<std::string>{"squares_kernel<float>", "judge_kernel<float>", "adam_kernel<float>"}));
}
#endif

}  // namespace
}  // namespace mnemo
