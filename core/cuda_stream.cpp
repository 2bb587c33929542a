#include "core/adam_kernels.h"

#include <c10/cuda/CUDAStream.h>

namespace mnemo {

void* current_cuda_stream() { return c10::cuda::getCurrentCUDAStream().stream(); }

}  // namespace mnemo
