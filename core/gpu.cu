#include "core/gpu.h"

#include <cuda_runtime.h>

namespace mnemo {

namespace {

__global__ void nothing() {}

cudaError_t launch_nothing(int index) {
  if (const auto status = cudaSetDevice(index); status != cudaSuccess) return status;
  nothing<<<1, 1>>>();
  const auto launched = cudaGetLastError();
  return launched != cudaSuccess ? launched : cudaDeviceSynchronize();
}

}  // namespace

std::string gpu_type() { return "cuda"; }

int num_gpus() {
  int count = 0;
  if (cudaGetDeviceCount(&count) == cudaSuccess) return count;
  cudaGetLastError();  // clears the error, which the next call would report
  return 0;
}

std::string gpu_name(int index) {
  cudaDeviceProp properties{};
  return cudaGetDeviceProperties(&properties, index) == cudaSuccess ? properties.name : "unknown GPU";
}

std::string why_gpu_refuses(int index) {
  const auto status = launch_nothing(index);
  if (status == cudaSuccess) return {};
  cudaDeviceProp properties{};
  cudaGetDeviceProperties(&properties, index);
  cudaGetLastError();
  return gpu_name(index) + " (compute capability " + std::to_string(properties.major) + "." + std::to_string(properties.minor) +
         ") does not run this build: " + cudaGetErrorString(status);
}

}  // namespace mnemo
