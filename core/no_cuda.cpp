// Stands in for the CUDA sources in a build without them.

#include "core/adam_kernels.h"

#include <stdexcept>

namespace mnemo {

namespace {
[[noreturn]] void refuse(const char* what) {
  throw std::logic_error(std::string(what) + ": this mnemo was built without CUDA");
}
}  // namespace

template <class Real>
void adam_step_cuda(const AdamBuffers<Real>&, void*) {
  refuse("adam_step_cuda");
}
template void adam_step_cuda<float>(const AdamBuffers<float>&, void*);
template void adam_step_cuda<double>(const AdamBuffers<double>&, void*);

void* current_cuda_stream() { refuse("current_cuda_stream"); }

}  // namespace mnemo
