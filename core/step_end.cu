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

/// The step begins to end: later kernels, which read its number, find it raised.
template <class Real>
__device__ __forceinline__ void count_step(const StepEnd<Real>& s) {
  if (blockIdx.x == 0 && blockIdx.y == 0 && blockIdx.z == 0 && threadIdx.x == 0) ++*s.step;
}

/// Block (x, tensor, replica) writes whether its share of the gradient is finite to work [R, T, x]; of a replica that is not judged, nothing.
template <class Real>
__global__ void __launch_bounds__(kThreads) finite_kernel(StepEnd<Real> s) {
  count_step(s);
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

/// The sum over the block, for all of its threads; always in the same order.
__device__ __forceinline__ double sum_of_block(double mine) {
  MNEMO_SHARED(double[kThreads / 32], of_warp);
  const double of_mine = warp_sum(mine);
  if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = of_mine;
  __syncthreads();
  double sum = 0;
  for (const double of : of_warp) sum += of;
  return sum;
}

/// In place of finite_kernel where gradients are clipped: block (x, tensor, replica) writes the sum of squares of its share of the gradient to work
/// [R, T, x], as float64; of a replica that is not clipped 0. Not finite where the share is not.
template <class Real>
__global__ void __launch_bounds__(kThreads) squares_kernel(StepEnd<Real> s) {
  count_step(s);
  const auto tensor = blockIdx.y, replica = blockIdx.z;
  if (!s.active_R[replica] || !s.finite_R[replica]) return;
  const auto row_tensor = replica * s.adam.num_tensors + tensor;
  const auto size = s.adam.frozen[row_tensor] ? 0 : s.adam.size[tensor];
  const bool clips = s.adam.scalars[replica].clip_norm > 0;
  const Real* const begin = s.adam.gradient + replica * s.adam.row_size + s.adam.offset[tensor];
  const auto first = std::int64_t{blockIdx.x} * kThreads + threadIdx.x, stride = std::int64_t{gridDim.x} * kThreads;
  double sum = 0;
  for (auto i = first; i < size; i += stride) {
    const double value = begin[i];
    sum += clips ? value * value : value - value;  // 0, or NaN
  }
  sum = sum_of_block(sum);
  if (threadIdx.x == 0) reinterpret_cast<double*>(s.work)[row_tensor * gridDim.x + blockIdx.x] = sum;
}

/// A block a replica, over the flags or sums [T, x] of its gradient.
template <class Real>
__global__ void __launch_bounds__(kThreads) judge_kernel(StepEnd<Real> s, unsigned num_shares) {
  const auto replica = blockIdx.x;
  if (!s.active_R[replica] || !s.finite_R[replica]) {
    if (threadIdx.x == 0) s.updates_R[replica] = 0;
    return;
  }
  const auto& scalars = s.adam.scalars[replica];
  bool finite = isfinite(s.loss_R[replica]);
  double squared = 0;
  for (auto i = threadIdx.x; i < num_shares; i += kThreads) {
    const auto share = std::size_t{replica} * num_shares + i;
    if (s.adam.clips) {
      squared += reinterpret_cast<const double*>(s.work)[share];
    } else {
      finite = finite && s.work[share];
    }
  }
  if (s.adam.clips) {
    squared = sum_of_block(squared);
    finite = finite && isfinite(squared);
  } else {
    finite = all_of_block(finite);
  }
  const bool updates = finite && s.learns_R[replica];
  if (threadIdx.x == 0) {
    s.finite_R[replica] = finite;
    s.finite_steps_R[replica] += finite;
    s.loss_sum_R[replica] += s.loss_R[replica];
    s.accuracy_sum_R[replica] += s.accuracy_R[replica];
    s.updates_R[replica] = updates;
    s.adam.rates[replica] = {learning_rate(scalars, *s.step), scalars.clip_norm > 0 ? clipping_scale(scalars.clip_norm, squared) : 1};
  }
  for (std::int64_t t = threadIdx.x; updates && t < s.adam.num_tensors; t += kThreads) {
    const auto row_tensor = replica * s.adam.num_tensors + t;
    if (!s.adam.frozen[row_tensor]) ++s.steps_RT[row_tensor];
  }
}

}  // namespace

template <class Real>
std::size_t step_end_work(const AdamBuffers<Real>& adam) {
  return static_cast<std::size_t>(adam.num_replicas * adam.num_tensors) * blocks_of_tensor(adam.row_size) *
         (adam.clips ? sizeof(double) : sizeof(std::uint8_t));
}

template <class Real>
void step_end_cuda(const StepEnd<Real>& end, void* stream) {
  const auto blocks = blocks_of_tensor(end.adam.row_size), tensors = static_cast<unsigned>(end.adam.num_tensors),
             replicas = static_cast<unsigned>(end.adam.num_replicas);
  const dim3 grid(blocks, tensors, replicas);
  if (end.adam.clips) {
    simt::launch<squares_kernel<Real>>(grid, kThreads, 0, stream, end);
  } else {
    simt::launch<finite_kernel<Real>>(grid, kThreads, 0, stream, end);
  }
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
