#include "core/step_end.h"

#include <cmath>
#include <limits>

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

}  // namespace

template <class Real>
void step_end_cpu(const StepEnd<Real>& end) {
  ++*end.step;
  auto adam = end.adam;
  adam.steps = end.steps_RT, adam.updates = end.updates_R;
  for (std::int64_t replica = 0; replica < adam.num_replicas; ++replica) {
    end.updates_R[replica] = 0;
    if (!end.active_R[replica] || !end.finite_R[replica]) continue;
    const bool finite = std::isfinite(end.loss_R[replica]) && gradient_is_finite(adam, replica);
    end.finite_R[replica] = finite;
    end.finite_steps_R[replica] += finite;
    end.loss_sum_R[replica] += end.loss_R[replica];
    end.accuracy_sum_R[replica] += end.accuracy_R[replica];
    if (!finite || !end.learns_R[replica]) continue;
    end.updates_R[replica] = 1;
    for (auto i = replica * adam.num_tensors; i < (replica + 1) * adam.num_tensors; ++i) end.steps_RT[i] += !adam.frozen[i];
  }
  adam_step_cpu(adam);
}

template void step_end_cpu(const StepEnd<float>&);
template void step_end_cpu(const StepEnd<double>&);

}  // namespace mnemo
