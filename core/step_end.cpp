#include "core/step_end.h"

#include <cmath>
#include <iterator>
#include <limits>
#include <numeric>

namespace mnemo {

namespace {

template <class Real>
bool gradient_is_finite(const AdamBuffers<Real>& b, std::int64_t replica) {
  for (std::int64_t tensor = 0; tensor < b.num_tensors; ++tensor) {
    if (b.frozen[replica * b.num_tensors + tensor]) continue;
    const Real* const gradient = b.gradient + replica * b.row_size + b.offset[tensor];
    int beyond = 0;  // integers, whose order the compiler may change
    for (std::int64_t i = 0; i < b.size[tensor]; ++i) beyond |= !(std::abs(gradient[i]) <= std::numeric_limits<Real>::max());
    if (beyond) return false;
  }
  return true;
}

/// Sum of squares, in float64, of the gradient of a replica's tensors that are not frozen. Not finite where the gradient is not.
template <class Real>
double squared_norm(const AdamBuffers<Real>& b, std::int64_t replica) {
  constexpr std::int64_t kLanes = 8;  // sums beside each other, so that one does not wait for another
  double sums[kLanes] = {};
  for (std::int64_t tensor = 0; tensor < b.num_tensors; ++tensor) {
    if (b.frozen[replica * b.num_tensors + tensor]) continue;
    const Real* const gradient = b.gradient + replica * b.row_size + b.offset[tensor];
    const auto add = [&](std::int64_t i, std::int64_t lane) { sums[lane] += static_cast<double>(gradient[i]) * static_cast<double>(gradient[i]); };
    const auto size = b.size[tensor], whole = size - size % kLanes;
    for (std::int64_t i = 0; i < whole; i += kLanes) {
      for (std::int64_t lane = 0; lane < kLanes; ++lane) add(i + lane, lane);
    }
    for (auto i = whole; i < size; ++i) add(i, i - whole);
  }
  return std::accumulate(std::begin(sums), std::end(sums), 0.0);
}

}  // namespace

template <class Real>
void step_end_cpu(const StepEnd<Real>& end) {
  ++*end.step;
  auto adam = end.adam;
  adam.steps = end.steps_RT, adam.updates = end.updates_R;
  for (std::int64_t replica = 0; replica < adam.num_replicas; ++replica) {
    end.updates_R[replica] = 0;
    if (!end.active_R[replica] || !end.finite_R[replica]) continue;
    const auto& scalars = adam.scalars[replica];
    const bool clips = scalars.clip_norm > 0;
    const double squared = clips ? squared_norm(adam, replica) : 0;
    const bool finite = std::isfinite(end.loss_R[replica]) && (clips ? std::isfinite(squared) : gradient_is_finite(adam, replica));
    end.finite_R[replica] = finite;
    end.finite_steps_R[replica] += finite;
    end.loss_sum_R[replica] += end.loss_R[replica];
    end.accuracy_sum_R[replica] += end.accuracy_R[replica];
    if (!finite || !end.learns_R[replica]) continue;
    end.updates_R[replica] = 1;
    adam.rates[replica] = {learning_rate(scalars, *end.step), clips ? clipping_scale(scalars.clip_norm, squared) : 1};
    for (auto i = replica * adam.num_tensors; i < (replica + 1) * adam.num_tensors; ++i) end.steps_RT[i] += !adam.frozen[i];
  }
  adam_step_cpu(adam);
}

template void step_end_cpu(const StepEnd<float>&);
template void step_end_cpu(const StepEnd<double>&);

}  // namespace mnemo
