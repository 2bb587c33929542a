#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <string>

namespace mnemo {

// What mnemo asks of GPUs, by index, beyond what LibTorch offers. core/gpu.cu and core/gpu_torch.cpp answer in a build with CUDA, core/no_cuda.cpp
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

/// Work that was recorded on a GPU: a CUDA graph, which the host launches as one.
class GpuGraph {
 public:
  virtual ~GpuGraph() = default;
  /// Queues the work again: the same kernels on the same memory. Whatever it took from the host is what it was when it was recorded.
  virtual void replay() = 0;
};
/// Records what `work` queues on the current stream of the current GPU, which must not be the default one, and queues it. It may allocate, but
/// neither wait nor copy from or to the host. Memory that it took stays its own.
std::unique_ptr<GpuGraph> record_gpu_graph(const std::function<void()>& work);

}  // namespace mnemo
