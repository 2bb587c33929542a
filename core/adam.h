#pragma once

#include "core/adam_kernels.h"
#include "core/parameters.h"

#include <vector>

namespace mnemo {

/// Adam over the flat buffer of all replicas: one pass on the CPU, one launch on a GPU. Frozen tensors are skipped: their values, moments and step
/// counts stay, so that training goes on from there once they are unfrozen.
class Adam {
 public:
  /// One set of scalars per replica. `parameters` must outlive this object.
  Adam(Parameters& parameters, const std::vector<AdamScalars>& scalars);

  /// Updates from the flat gradient. Replicas whose entry in `updates_R` (uint8, same device) is 0 are skipped. This is the update alone, by `lr` and
  /// with the gradient as it is: in training, core/step_end makes it, by the learning rate of the step and with a clipped gradient.
  void step(const torch::Tensor& updates_R);
  /// Brings the frozen flags on the device up to date.
  void refresh_frozen();
  /// What core/step_end needs: all but `updates`. They stay where they are. `Real` is the parameters' type.
  template <class Real>
  AdamBuffers<Real> buffers();

  /// Forgets the moments and step counts of the given parameters of a replica.
  void reset(std::int64_t replica, const std::vector<std::size_t>& parameters);

  // State for checkpoints: [R, P], [R, P], and update counts of each tensor [R, T] int64.
  torch::Tensor& first_moment_RP() { return first_moment_; }
  torch::Tensor& second_moment_RP() { return second_moment_; }
  torch::Tensor& steps_RT() { return steps_; }

 private:
  template <class Real>
  void step_typed(const torch::Tensor& updates_R);

  Parameters& parameters_;
  torch::Tensor first_moment_, second_moment_;
  torch::Tensor offset_T_, size_T_, steps_, scalars_R_, rates_R_;
  bool clips_ = false;
  std::vector<std::uint8_t> frozen_;  // what frozen_RT_ holds on the device
  torch::Tensor frozen_RT_;
};

}  // namespace mnemo
