#pragma once

#include "core/adam_math.h"
#include "core/parameters.h"

#include <vector>

namespace mnemo {

/// Adam over the flat buffer of all replicas: one pass on the CPU, one launch on a GPU. Frozen tensors are skipped: their values, moments and step
/// counts stay, so that training goes on from there once they are unfrozen.
class Adam {
 public:
  /// One set of scalars per replica. `parameters` must outlive this object.
  Adam(Parameters& parameters, const std::vector<AdamScalars>& scalars);

  /// Updates from the flat gradient. Replicas whose entry in `updates_R` (uint8, same device) is 0 are skipped.
  void step(const torch::Tensor& updates_R);

  /// Forgets the moments and step counts of the given parameters of a replica.
  void reset(std::int64_t replica, const std::vector<std::size_t>& parameters);

  // State for checkpoints: [R, P], [R, P], and update counts of each tensor [R, T] int64.
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

/// uint8 [R]: 1 where the loss and the whole gradient of a replica are finite.
torch::Tensor finite_replicas(const torch::Tensor& gradient_RP, const torch::Tensor& loss_R);

}  // namespace mnemo
