#pragma once

// What ends a training step, in one call. All its flags and counters lie on the device, so that a recorded step stays right through a freeze, a
// switch and a divergence. No torch header, C++17: nvcc compiles this too.

#include "core/adam_kernels.h"

#include <cstddef>

namespace mnemo {

/// All pointers live on one device. A replica is *alive* until its first step whose loss or gradient (frozen tensors left out) is not finite.
template <class Real>
struct StepEnd {
  AdamBuffers<Real> adam;        ///< its `steps` and `updates` are not read: they are the two of the same name below
  const double* loss_R;          ///< of this step
  const double* accuracy_R;      ///< of this step
  const std::uint8_t* active_R;  ///< 0: the replica takes no part in this step
  const std::uint8_t* learns_R;  ///< 0: it has nothing to learn from, and is not updated
  std::uint8_t* finite_R;        ///< 1 while it is alive
  std::int64_t* finite_steps_R;  ///< steps that it took part in and survived
  double* loss_sum_R;            ///< of the steps it took part in, the one it died of included
  double* accuracy_sum_R;        ///< the same
  std::int64_t* steps_RT;        ///< updates of each tensor
  std::uint8_t* updates_R;       ///< written: 1 where this step updates the replica
  std::int64_t* step;            ///< [1] number of this step; one more afterwards
  std::uint8_t* work;            ///< on a GPU step_end_work() bytes, aligned to 8
};

/// Judges the replicas that take part and are alive, counts and sums, and updates the tensors that are not frozen of those still alive that have
/// something to learn from, by the learning rate of this step and with a gradient no longer than the replica's clip_norm. A norm that float64 does
/// not hold counts as a gradient that is not finite. Nothing of a dead replica or of one that takes no part is written but its `updates_R`.
template <class Real>
void step_end_cpu(const StepEnd<Real>& end);

template <class Real>
std::size_t step_end_work(const AdamBuffers<Real>& adam);
/// The same on the current GPU: three launches on `stream` (a cudaStream_t). Throws std::runtime_error.
template <class Real>
void step_end_cuda(const StepEnd<Real>& end, void* stream);

}  // namespace mnemo
