#include "core/gpu.h"

#include <c10/cuda/CUDAStream.h>

namespace mnemo {

void* gpu_stream(int index) { return c10::cuda::getCurrentCUDAStream(static_cast<c10::DeviceIndex>(index)).stream(); }

}  // namespace mnemo
