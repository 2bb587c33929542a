#pragma once

#include <cstddef>
#include <string>

namespace mnemo {

// What mnemo asks of GPUs, by index, beyond what LibTorch offers. core/gpu.cu and core/gpu_stream.cpp answer in a build with CUDA, core/no_cuda.cpp
// in one without, and tests/far_device.cpp for a device of CPU memory. No torch header: nvcc compiles this too.

/// LibTorch's name of the device type: "cuda".
std::string gpu_type();
int num_gpus();
/// "NVIDIA H100 80GB HBM3".
std::string gpu_name(int index);
/// Why this GPU cannot run this build; empty if an empty kernel ran.
std::string why_gpu_refuses(int index);
/// Bytes of device memory: free for everybody, and the most that this process's tensors have taken so far, caches included.
struct GpuMemory {
  std::size_t free, taken;
};
GpuMemory gpu_memory(int index);
/// LibTorch's current cudaStream_t on this GPU.
void* gpu_stream(int index);

}  // namespace mnemo
