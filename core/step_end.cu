#include "core/step_end.h"

#include "core/warp.h"

namespace mnemo {

namespace {

constexpr int kThreads = kTensorThreads;

/// Whether all threads of the block say so; for all of them, and a barrier for what they did before.
__device__ __forceinline__ bool all_of_block(bool mine) {
  MNEMO_SHARED(int[kThreads / 32], of_warp);
  const int of_mine = __all_sync(kAllLanes, mine);
  if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = of_mine;
  __syncthreads();
  bool all = true;
  for (const int of : of_warp) all = all && of != 0;
  return all;
}

/// Block (x, tensor, replica) writes whether its share of the gradient is finite to work [R, T, x]; of a replica that is not judged, nothing.
template <class Real>
__global__ void __launch_bounds__(kThreads) finite_kernel(StepEnd<Real> s) {
  const auto tensor = blockIdx.y, replica = blockIdx.z;
  if (!s.active_R[replica] || !s.finite_R[replica]) return;
  const auto row_tensor = replica * s.adam.num_tensors + tensor;
  const auto size = s.adam.frozen[row_tensor] ? 0 : s.adam.size[tensor];
  const Real* const begin = s.adam.gradient + replica * s.adam.row_size + s.adam.offset[tensor];
  const auto first = std::int64_t{blockIdx.x} * kThreads + threadIdx.x, stride = std::int64_t{gridDim.x} * kThreads;
  bool finite = true;
  for (auto i = first; i < size; i += stride) finite &= isfinite(begin[i]);
  finite = all_of_block(finite);
  if (threadIdx.x == 0) s.work[row_tensor * gridDim.x + blockIdx.x] = finite;
}

/// A block a replica, over the flags [T, x] of its gradient.
template <class Real>
__global__ void __launch_bounds__(kThreads) judge_kernel(StepEnd<Real> s, unsigned num_flags) {
  const auto replica = blockIdx.x;
  if (replica == 0 && threadIdx.x == 0) ++*s.step;
  if (!s.active_R[replica] || !s.finite_R[replica]) {
    if (threadIdx.x == 0) s.updates_R[replica] = 0;
    return;
  }
  bool finite = isfinite(s.loss_R[replica]);
  for (auto i = threadIdx.x; i < num_flags; i += kThreads) finite = finite && s.work[std::size_t{replica} * num_flags + i];
  finite = all_of_block(finite);
  const bool updates = finite && s.learns_R[replica];
  if (threadIdx.x == 0) {
    s.finite_R[replica] = finite;
    s.finite_steps_R[replica] += finite;
    s.loss_sum_R[replica] += s.loss_R[replica];
    s.accuracy_sum_R[replica] += s.accuracy_R[replica];
    s.updates_R[replica] = updates;
  }
  for (std::int64_t t = threadIdx.x; updates && t < s.adam.num_tensors; t += kThreads) {
    const auto row_tensor = replica * s.adam.num_tensors + t;
    if (!s.adam.frozen[row_tensor]) ++s.steps_RT[row_tensor];
  }
}

}  // namespace

template <class Real>
std::size_t step_end_work(const AdamBuffers<Real>& adam) {
  return static_cast<std::size_t>(adam.num_replicas * adam.num_tensors) * blocks_of_tensor(adam.row_size);
}

template <class Real>
void step_end_cuda(const StepEnd<Real>& end, void* stream) {
  const auto blocks = blocks_of_tensor(end.adam.row_size), tensors = static_cast<unsigned>(end.adam.num_tensors),
             replicas = static_cast<unsigned>(end.adam.num_replicas);
  simt::launch<finite_kernel<Real>>(dim3(blocks, tensors, replicas), kThreads, 0, stream, end);
  simt::launch<judge_kernel<Real>>(replicas, kThreads, 0, stream, end, blocks * tensors);
  auto adam = end.adam;
  adam.steps = end.steps_RT, adam.updates = end.updates_R;
  adam_step_cuda(adam, stream);
}

template std::size_t step_end_work(const AdamBuffers<float>&);
template std::size_t step_end_work(const AdamBuffers<double>&);
template void step_end_cuda(const StepEnd<float>&, void*);
template void step_end_cuda(const StepEnd<double>&, void*);

}  // namespace mnemo
