#include "core/gpu.h"

#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <cuda_runtime.h>

namespace mnemo {

void* gpu_stream(int index) { return c10::cuda::getCurrentCUDAStream(static_cast<c10::DeviceIndex>(index)).stream(); }

GpuMemory gpu_memory(int index) {
  const auto device = static_cast<c10::DeviceIndex>(index);
  const auto statistics = c10::cuda::CUDACachingAllocator::getDeviceStats(device);
  const c10::cuda::CUDAGuard guard(device);
  std::size_t free = 0, total = 0;
  C10_CUDA_CHECK(cudaMemGetInfo(&free, &total));
  return {free, static_cast<std::size_t>(statistics.reserved_bytes[0].peak)};  // 0: of pools of all sizes
}

}  // namespace mnemo
