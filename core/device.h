#pragma once

#include <torch/types.h>

#include <exception>
#include <limits>
#include <string>

namespace mnemo {

/// A device and the words that say why it was taken.
struct DeviceChoice {
  torch::Device device;
  std::string reason;
};

/// `auto` takes a GPU where a step takes the CPU longer than this: twice the 1.1 ms, about, that the smallest step takes a GPU, which waits for
/// the host to launch its operations.
inline constexpr double kGpuWorthMilliseconds = 2;

/// `auto | cpu | cuda | cuda:N`. `auto` takes the first GPU where it is usable and a step, `cpu_milliseconds` on the CPU, is worth it. Throws
/// Error{resources} where a named GPU is not there or not usable; there is no silent way back to the CPU. A GPU becomes the current one of this
/// thread, and multiplies float32 in full, without TF32, whatever the environment says.
DeviceChoice choose_device(const std::string& wanted, double cpu_milliseconds = std::numeric_limits<double>::infinity());

/// "NVIDIA H100 80GB HBM3", or the processor's model name.
std::string device_name(torch::Device device);

/// Why GPU `index` cannot be used, empty when it can.
std::string why_no_cuda(int index = 0);

/// A failure of CUDA, cuBLAS or the driver: nothing is wrong in mnemo's own files or settings.
bool is_device_error(const std::exception& error);

/// Highest CUDA version that the NVIDIA driver of this machine speaks, as "13.0"; empty without a driver.
std::string driver_cuda_version();

/// CUDA version that this LibTorch was built for, as "13.0"; empty for a CPU build of mnemo.
std::string libtorch_cuda_version();

}  // namespace mnemo
