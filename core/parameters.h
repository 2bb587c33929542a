#pragma once

#include "core/parameter_spec.h"

#include <torch/types.h>

#include <cstdint>
#include <string_view>
#include <vector>

namespace mnemo {

/// All parameters of all replicas in one flat [R, P] buffer. Each tensor starts at a multiple of 64 bytes and is a leaf that
/// views the buffer, [R, shape...]; its gradient views one flat gradient, which is zeroed and never replaced.
class Parameters {
 public:
  Parameters(std::vector<ParameterSpec> specs, std::int64_t num_replicas, torch::Dtype dtype, torch::Device device);

  /// One replica as a view of the same parameters and gradient, with frozen flags of its own.
  Parameters replica(std::int64_t r) const;

  const std::vector<ParameterSpec>& specs() const { return specs_; }
  std::int64_t num_replicas() const { return flat_.size(0); }
  const torch::Tensor& flat_RP() const { return flat_; }
  const torch::Tensor& gradient_RP() const { return gradient_; }
  /// First element of a parameter in a row of the flat buffer.
  std::int64_t offset(std::size_t index) const { return offsets_[index]; }

  /// The leaf [R, shape...]. Throws std::out_of_range for an unknown name.
  const torch::Tensor& operator[](std::string_view name) const { return leaves_[index_of(name)]; }
  const torch::Tensor& leaf(std::size_t index) const { return leaves_[index]; }
  std::size_t index_of(std::string_view name) const;

  /// Fills replica r with the initial values that `specs` (of the same shapes) ask for, a function of (seed, name) alone.
  void initialize(std::int64_t replica, std::uint32_t seed, const std::vector<ParameterSpec>& specs);
  void zero_gradient() { gradient_.zero_(); }

  /// A frozen parameter of a replica gets no gradient, and Adam does not touch it.
  bool frozen(std::int64_t replica, std::size_t index) const { return frozen_RT_[flag(replica, index)] != 0; }
  void set_frozen(std::int64_t replica, std::size_t index, bool frozen);
  /// [R, T] flags, replica by replica.
  const std::vector<std::uint8_t>& frozen_RT() const { return frozen_RT_; }
  /// Must end every gradient() of cells that the host made: a parameter that is frozen in some replicas only gets a gradient in all.
  void zero_frozen_gradients();

 private:
  Parameters(std::vector<ParameterSpec> specs, std::vector<std::int64_t> offsets, torch::Tensor flat, torch::Tensor gradient);

  std::size_t flag(std::int64_t replica, std::size_t index) const { return static_cast<std::size_t>(replica) * specs_.size() + index; }

  std::vector<ParameterSpec> specs_;
  std::vector<std::int64_t> offsets_;
  torch::Tensor flat_, gradient_;
  std::vector<torch::Tensor> leaves_;  // on the CPU one that is frozen in all replicas takes no part in autograd
  std::vector<std::uint8_t> frozen_RT_;
};

}  // namespace mnemo
