// Replaces the CUDA sources in a build without CUDA. There are no GPUs, so that nothing else is ever called.

#include "core/device_cells.h"
#include "core/draws.h"
#include "core/gpu.h"
#include "core/step_end.h"

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
std::unique_ptr<GpuGraph> record_gpu_graph(const std::function<void()>&) { refuse("record_gpu_graph"); }

template <class Real>
void adam_step_cuda(const AdamBuffers<Real>&, void*) {
  refuse("adam_step_cuda");
}
template void adam_step_cuda<float>(const AdamBuffers<float>&, void*);
template void adam_step_cuda<double>(const AdamBuffers<double>&, void*);

template <class Real>
std::size_t step_end_work(const AdamBuffers<Real>&) {
  refuse("step_end_work");
}
template std::size_t step_end_work(const AdamBuffers<float>&);
template std::size_t step_end_work(const AdamBuffers<double>&);
template <class Real>
void step_end_cuda(const StepEnd<Real>&, void*) {
  refuse("step_end_cuda");
}
template void step_end_cuda(const StepEnd<float>&, void*);
template void step_end_cuda(const StepEnd<double>&, void*);

void draw_cuda(const DeviceDraws&, void*) { refuse("draw_cuda"); }
void device_cells_cuda(const DeviceCells&, const std::int32_t*, const DeviceTable*, const std::uint8_t*, void*) { refuse("device_cells_cuda"); }

}  // namespace mnemo
