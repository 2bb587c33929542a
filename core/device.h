#pragma once

#include <torch/types.h>

#include <exception>
#include <limits>
#include <string>

namespace mnemo {

/// A device, and why it was chosen.
struct DeviceChoice {
  torch::Device device;
  std::string reason;
};

/// `auto` takes a GPU only if a step takes the CPU longer than this. A step of a GPU is estimated at less, evaluations on it at more
/// (ARCHITECTURE.md); nothing of it has been measured yet.
inline constexpr double kGpuWorthMilliseconds = 2;

/// `wanted` is auto, cpu, cuda or cuda:N. `auto` takes the first GPU if it is usable and a step that takes `cpu_milliseconds` on the CPU is worth it.
/// Throws Error{resources} if a named GPU is missing or unusable; nothing falls back to the CPU silently. A chosen GPU becomes the current one of
/// this thread, gets a stream of mnemo's own, and computes float32 products in full unless `tf32` says otherwise, whatever the environment says.
DeviceChoice choose_device(const std::string& wanted, double cpu_milliseconds = std::numeric_limits<double>::infinity(), bool tf32 = false);

/// "NVIDIA H100 80GB HBM3", or the processor's model name.
std::string device_name(torch::Device device);

/// Why GPU `index` cannot be used, empty when it can.
std::string why_no_cuda(int index = 0);

/// Whether CUDA, cuBLAS or the driver failed, rather than mnemo's files or settings.
bool is_device_error(const std::exception& error);

/// Highest CUDA version that the NVIDIA driver of this machine supports, as "13.0"; empty without a driver.
std::string driver_cuda_version();

/// CUDA version that this LibTorch was built for, as "13.0"; empty for a CPU build of mnemo.
std::string libtorch_cuda_version();

}  // namespace mnemo
