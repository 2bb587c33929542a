#pragma once

// Sums and maxima over a warp, for kernels. C++17.

#include "core/simt.h"

namespace mnemo {

constexpr unsigned kAllLanes = ~0u;

template <class Number>
__device__ inline Number warp_sum(Number v) {
  for (int bit = 16; bit > 0; bit /= 2) v += __shfl_xor_sync(kAllLanes, v, bit);
  return v;
}

__device__ inline float warp_max(float v) {
  for (int bit = 16; bit > 0; bit /= 2) v = fmaxf(v, __shfl_xor_sync(kAllLanes, v, bit));
  return v;
}

}  // namespace mnemo
