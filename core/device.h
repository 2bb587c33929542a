#pragma once

#include <torch/types.h>

#include <string>

namespace mnemo {

/// A device and the words that say why it was taken.
struct DeviceChoice {
  torch::Device device;
  std::string reason;
};

/// `auto | cpu | cuda | cuda:N`. `auto` takes the first GPU that LibTorch can use, else the CPU.
/// Throws Error{resources} where a named GPU is not there; there is no silent way back to the CPU.
DeviceChoice choose_device(const std::string& wanted);

/// Why no GPU can be used, empty when one can.
std::string why_no_cuda();

/// Highest CUDA version that the NVIDIA driver of this machine speaks, as "13.0"; empty without a driver.
std::string driver_cuda_version();

/// CUDA version that this LibTorch was built for, as "13.0"; empty for a CPU build of mnemo.
std::string libtorch_cuda_version();

}  // namespace mnemo
