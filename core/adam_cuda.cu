#include "core/adam_kernels.h"
#include "core/simt.h"

namespace mnemo {

namespace {

/// Block (x, tensor, replica). The bias corrections are computed once a block, from the device's own step counters, so that a captured
/// graph replays with the right ones.
template <class Real>
__global__ void __launch_bounds__(kTensorThreads) adam_kernel(AdamBuffers<Real> b) {
  const auto tensor = blockIdx.y, replica = blockIdx.z;
  const auto row_tensor = replica * b.num_tensors + tensor;
  if (b.frozen[row_tensor] || !b.updates[replica]) return;
  const auto begin = replica * b.row_size + b.offset[tensor];
  const auto size = b.size[tensor];
  if (std::int64_t{blockIdx.x} * kTensorThreads >= size) return;
  MNEMO_SHARED(double[2], corrections);
  const auto scalars = b.scalars[replica];
  if (threadIdx.x < 2) {
    corrections[threadIdx.x] = 1 - pow(threadIdx.x == 0 ? scalars.beta1 : scalars.beta2, static_cast<double>(b.steps[row_tensor]));
  }
  __syncthreads();
  const AdamCoefficients<Real> coefficients(scalars, b.rates[replica], corrections[0], corrections[1]);
  for (std::int64_t i = blockIdx.x * std::int64_t{kTensorThreads} + threadIdx.x; i < size; i += std::int64_t{kTensorThreads} * gridDim.x) {
    adam_update(b.parameters[begin + i], b.gradient[begin + i], b.first_moment[begin + i], b.second_moment[begin + i], coefficients);
  }
}

}  // namespace

template <class Real>
void adam_step_cuda(const AdamBuffers<Real>& buffers, void* stream) {
  const dim3 grid(blocks_of_tensor(buffers.row_size), static_cast<unsigned>(buffers.num_tensors), static_cast<unsigned>(buffers.num_replicas));
  simt::launch<adam_kernel<Real>>(grid, kTensorThreads, 0, stream, buffers);
}

template void adam_step_cuda<float>(const AdamBuffers<float>&, void*);
template void adam_step_cuda<double>(const AdamBuffers<double>&, void*);

}  // namespace mnemo
