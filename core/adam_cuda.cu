#include "core/adam_kernels.h"

#include <cuda_runtime.h>

#include <stdexcept>
#include <string>

namespace mnemo {

namespace {

constexpr int kThreads = 256;
constexpr int kBlocksPerTensor = 64;  // a grid-stride loop covers larger tensors

/// Block (x, tensor, replica). The bias corrections are computed once a block, from the device's own step counters, so that a captured
/// graph replays with the right ones.
template <class Real>
__global__ void adam_kernel(AdamBuffers<Real> b) {
  const auto tensor = blockIdx.y, replica = blockIdx.z;
  const auto row_tensor = replica * b.num_tensors + tensor;
  if (b.frozen[row_tensor] || !b.updates[replica]) return;
  __shared__ AdamScalars scalars;
  __shared__ double corrections[2];
  if (threadIdx.x == 0) scalars = b.scalars[replica];
  __syncthreads();
  if (threadIdx.x < 2) {
    corrections[threadIdx.x] = 1 - pow(threadIdx.x == 0 ? scalars.beta1 : scalars.beta2, static_cast<double>(b.steps[row_tensor]));
  }
  __syncthreads();
  const AdamCoefficients<Real> coefficients(scalars, corrections[0], corrections[1]);
  const auto begin = replica * b.row_size + b.offset[tensor];
  const auto size = b.size[tensor];
  for (std::int64_t i = blockIdx.x * std::int64_t{kThreads} + threadIdx.x; i < size; i += std::int64_t{kThreads} * gridDim.x) {
    adam_update(b.parameters[begin + i], b.gradient[begin + i], b.first_moment[begin + i], b.second_moment[begin + i], coefficients);
  }
}

}  // namespace

template <class Real>
void adam_step_cuda(const AdamBuffers<Real>& buffers, void* stream) {
  const dim3 grid(kBlocksPerTensor, static_cast<unsigned>(buffers.num_tensors), static_cast<unsigned>(buffers.num_replicas));
  adam_kernel<Real><<<grid, kThreads, 0, static_cast<cudaStream_t>(stream)>>>(buffers);
  if (const auto status = cudaGetLastError(); status != cudaSuccess) {
    throw std::runtime_error(std::string("CUDA error: launch of adam: ") + cudaGetErrorString(status));
  }
}

template void adam_step_cuda<float>(const AdamBuffers<float>&, void*);
template void adam_step_cuda<double>(const AdamBuffers<double>&, void*);

}  // namespace mnemo
