#pragma once

#include <string>

namespace mnemo {

// What mnemo asks of GPUs beside LibTorch, by index. core/gpu.cu and core/gpu_stream.cpp answer in a build with CUDA, core/no_cuda.cpp in one
// without, and tests/far_device.cpp for a device of CPU memory. No torch header: nvcc compiles this too.

/// LibTorch's word for such a device: "cuda".
std::string gpu_type();
int num_gpus();
/// "NVIDIA H100 80GB HBM3".
std::string gpu_name(int index);
/// Why this GPU does not run what mnemo was compiled to, in words; empty when an empty kernel ran there.
std::string why_gpu_refuses(int index);
/// The cudaStream_t that LibTorch uses there at this moment.
void* gpu_stream(int index);

}  // namespace mnemo
