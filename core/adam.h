#pragma once

#include "core/adam_math.h"
#include "core/parameters.h"

#include <vector>

namespace mnemo {

/// Adam over the flat buffer of all replicas: one pass on the CPU, one launch on a GPU. Frozen tensors are skipped whole: neither
/// they nor their moments nor their step counters move, so that unfreezing goes on where freezing stopped.
class Adam {
 public:
  /// One set of scalars a replica. `parameters` must outlive this object.
  Adam(Parameters& parameters, const std::vector<AdamScalars>& scalars);

  /// Updates from the flat gradient. Replicas whose entry in `updates_R` (uint8, same device) is 0 are left alone.
  void step(const torch::Tensor& updates_R);

  /// Forgets the moments and step counts of the given parameters of a replica.
  void reset(std::int64_t replica, const std::vector<std::size_t>& parameters);

  // State for checkpoints: [R, P], [R, P], and updates done of each tensor [R, T] int64.
  torch::Tensor& first_moment_RP() { return first_moment_; }
  torch::Tensor& second_moment_RP() { return second_moment_; }
  torch::Tensor& steps_RT() { return steps_; }

 private:
  template <class Real>
  void step_typed(const torch::Tensor& updates_R);
  void refresh_frozen();

  Parameters& parameters_;
  torch::Tensor first_moment_, second_moment_;
  torch::Tensor offset_T_, size_T_, steps_, scalars_R_;
  std::vector<std::uint8_t> frozen_;  // what frozen_RT_ and trainable_RT_ hold on the device
  torch::Tensor frozen_RT_, trainable_RT_;
};

/// 1 where every element of the replica's gradient and its loss are finite, as uint8 [R].
torch::Tensor finite_replicas(const torch::Tensor& gradient_RP, const torch::Tensor& loss_R);

}  // namespace mnemo
