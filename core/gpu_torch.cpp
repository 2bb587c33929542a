#include "core/gpu.h"

#include <ATen/cuda/CUDAGraph.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <cuda_runtime.h>

namespace mnemo {

namespace {

class CudaGraph final : public GpuGraph {
 public:
  explicit CudaGraph(const std::function<void()>& work) {
    graph_.capture_begin();
    try {
      work();
    } catch (...) {
      try {
        graph_.capture_end();        // gives the stream back
      } catch (const c10::Error&) {  // says that the capture was invalidated; the first error says why
      }
      throw;
    }
    graph_.capture_end();
    replay();
  }
  void replay() override { graph_.replay(); }

 private:
  at::cuda::CUDAGraph graph_;
};

}  // namespace

void* gpu_stream(int index) { return c10::cuda::getCurrentCUDAStream(static_cast<c10::DeviceIndex>(index)).stream(); }

GpuMemory gpu_memory(int index) {
  const auto device = static_cast<c10::DeviceIndex>(index);
  const auto statistics = c10::cuda::CUDACachingAllocator::getDeviceStats(device);
  const c10::cuda::CUDAGuard guard(device);
  std::size_t free = 0, total = 0;
  C10_CUDA_CHECK(cudaMemGetInfo(&free, &total));
  return {free, static_cast<std::size_t>(statistics.reserved_bytes[0].peak)};  // 0: of pools of all sizes
}

std::unique_ptr<GpuGraph> record_gpu_graph(const std::function<void()>& work) { return std::make_unique<CudaGraph>(work); }

}  // namespace mnemo
