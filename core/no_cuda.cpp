// Replaces the CUDA sources in a build without CUDA. There are no GPUs, so that nothing else is ever called.

#include "core/adam_kernels.h"
#include "core/gpu.h"

#include <stdexcept>

namespace mnemo {

namespace {
[[noreturn]] void refuse(const char* what) { throw std::logic_error(std::string(what) + ": this mnemo was built without CUDA"); }
}  // namespace

std::string gpu_type() { return "cuda"; }
int num_gpus() { return 0; }
std::string gpu_name(int) { refuse("gpu_name"); }
std::string why_gpu_refuses(int) { refuse("why_gpu_refuses"); }
GpuMemory gpu_memory(int) { refuse("gpu_memory"); }
void* gpu_stream(int) { refuse("gpu_stream"); }

template <class Real>
void adam_step_cuda(const AdamBuffers<Real>&, void*) {
  refuse("adam_step_cuda");
}
template void adam_step_cuda<float>(const AdamBuffers<float>&, void*);
template void adam_step_cuda<double>(const AdamBuffers<double>&, void*);

}  // namespace mnemo
