#pragma once

// The part of CUDA that our kernels use. Under nvcc: CUDA itself. Under g++, in test builds alone: an emulator that runs the kernel's own text on the
// CPU, so that ASan, UBSan, TSan and gdb see it. tests/simt/README.md: how to write and test a kernel, and what that does not show. C++17.

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <string_view>

namespace mnemo::simt {

template <class T>
using Type = T;  // lets a macro declare `float[8][4] name`

/// The name of a kernel as its source has it, template arguments included: "adam_kernel<float>".
template <auto kernel>
constexpr std::string_view name_of() {
  std::string_view name = __PRETTY_FUNCTION__;  // ... [with auto kernel = mnemo::{anonymous}::adam_kernel<float>; ...
  name.remove_prefix(name.find("kernel = ") + 9);
  name = name.substr(0, name.find_first_of(";]"));
  const auto space = name.substr(0, name.find('<')).rfind("::");
  return space == name.npos ? name : name.substr(space + 2);
}

}  // namespace mnemo::simt

#ifdef __CUDACC__
#include <cuda_runtime.h>
#define MNEMO_SHARED(T, name) __shared__ mnemo::simt::Type<T> name
#define MNEMO_DYNAMIC_SHARED(name) extern __shared__ __align__(16) unsigned char name[]

namespace mnemo::simt {

inline void check(cudaError_t status, std::string_view what) {
  if (status != cudaSuccess) throw std::runtime_error("CUDA error: " + std::string(what) + ": " + cudaGetErrorString(status));
}

/// Queues kernel(args...) with `shared` bytes of dynamic shared memory on a cudaStream_t of the current device. Throws std::runtime_error.
template <auto kernel, class... Args>
void launch(dim3 grid, dim3 block, std::size_t shared, void* stream, Args... args) {
  constexpr auto kShared = cudaFuncAttributeMaxDynamicSharedMemorySize;
  if (shared > 0) check(cudaFuncSetAttribute(kernel, kShared, int(shared)), name_of<kernel>());
  kernel<<<grid, block, shared, static_cast<cudaStream_t>(stream)>>>(args...);
  check(cudaGetLastError(), name_of<kernel>());
}

}  // namespace mnemo::simt

#else
#include <math.h>

#include <bit>

#include <simt_emulator.h>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
/// An array in shared memory, MNEMO_SHARED(float[8][33], tile): a heap block of its own, so ASan guards both ends.
#define MNEMO_SHARED(T, name) \
  static char name##_key;     \
  auto& name = mnemo::simt::block().shared<mnemo::simt::Type<T>>(&name##_key)
#define MNEMO_DYNAMIC_SHARED(name) unsigned char* const name = mnemo::simt::block().dynamic.get()

#define threadIdx (static_cast<const dim3&>(mnemo::simt::block().running->index))
#define blockIdx (mnemo::simt::block().index)
#define blockDim (mnemo::simt::block().size)
#define gridDim (mnemo::simt::block().grid)

namespace mnemo::simt {

template <auto kernel, class... Args>
void launch(dim3 grid, dim3 size, std::size_t shared, void* stream, Args... args) {
  around_launch({name_of<kernel>(), stream, grid, size, shared}, [=] { run_grid(grid, size, shared, [&] { kernel(args...); }); });
}

/// What lane `from` shows; one's own value where that lane lies outside one's segment of `width` lanes.
template <class T>
T shuffle(unsigned mask, T mine, int lane, int from, int width, Site at) {
  static_assert(std::is_arithmetic_v<T> && (sizeof(T) == 4 || sizeof(T) == 8));
  const bool inside = from >= 0 && from / width == lane / width;
  return collective(mask, mine, at, [=](const auto& of) { return of(inside ? from : lane); });
}
inline int lane() { return int(block().running->rank % 32); }

}  // namespace mnemo::simt

#define MNEMO_SITE mnemo::simt::Site at = mnemo::simt::Site::current()
inline void __syncthreads(MNEMO_SITE) {
  const mnemo::simt::Quiet quiet;
  mnemo::simt::block().wait(mnemo::simt::State::at_barrier, at);
}
inline void __syncwarp(unsigned mask = ~0u, MNEMO_SITE) {
  mnemo::simt::collective<true>(mask, 0, at, [](const auto&) { return 0; });
}
template <class T>
T __shfl_sync(unsigned mask, T v, int from, int width = 32, MNEMO_SITE) {
  const int lane = mnemo::simt::lane();
  return mnemo::simt::shuffle(mask, v, lane, lane / width * width + (from & (width - 1)), width, at);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T v, int bits, int width = 32, MNEMO_SITE) {
  const int lane = mnemo::simt::lane();
  return mnemo::simt::shuffle(mask, v, lane, lane ^ bits, width, at);
}
template <class T>
T __shfl_up_sync(unsigned mask, T v, unsigned by, int width = 32, MNEMO_SITE) {
  const int lane = mnemo::simt::lane();
  return mnemo::simt::shuffle(mask, v, lane, lane - int(by), width, at);
}
template <class T>
T __shfl_down_sync(unsigned mask, T v, unsigned by, int width = 32, MNEMO_SITE) {
  const int lane = mnemo::simt::lane();
  return mnemo::simt::shuffle(mask, v, lane, lane + int(by), width, at);
}
inline unsigned __ballot_sync(unsigned mask, int predicate, MNEMO_SITE) {
  return mnemo::simt::collective(mask, predicate, at, [=](const auto& of) {
    unsigned votes = 0;
    for (int l = 0; l < 32; ++l) votes |= (mask >> l & 1) && of(l) ? 1u << l : 0u;
    return votes;
  });
}
inline int __any_sync(unsigned mask, int predicate, MNEMO_SITE) { return __ballot_sync(mask, predicate, at) != 0; }
inline int __all_sync(unsigned mask, int predicate, MNEMO_SITE) { return __ballot_sync(mask, predicate, at) == mask; }

inline void __threadfence() {
  if constexpr (mnemo::simt::kTsan) __tsan_acquire(&mnemo::simt::fences), __tsan_release(&mnemo::simt::fences);
}
template <class T>
T atomicAdd(T* to, std::type_identity_t<T> v) {
  T old, sum;
  __atomic_load(to, &old, __ATOMIC_RELAXED);
  do sum = old + v;
  while (!__atomic_compare_exchange(to, &old, &sum, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
  return old;
}

using std::max, std::min;
struct alignas(16) [[gnu::may_alias]] float4 {
  float x, y, z, w;
};
inline unsigned __float_as_uint(float v) { return std::bit_cast<unsigned>(v); }
inline float __uint_as_float(unsigned v) { return std::bit_cast<float>(v); }
inline int __popc(unsigned v) { return std::popcount(v); }
inline int __popcll(unsigned long long v) { return std::popcount(v); }
inline int __clz(int v) { return std::countl_zero(unsigned(v)); }
inline int __clzll(long long v) { return std::countl_zero(static_cast<unsigned long long>(v)); }
inline int __ffs(int v) { return v == 0 ? 0 : std::countr_zero(unsigned(v)) + 1; }
#endif

namespace mnemo {

/// `v` rounded to tf32's 10 bits of mantissa, to nearest, ties away from zero; the bits of a float whose last 13 are 0.
__device__ inline std::uint32_t to_tf32(float v) {
#ifdef __CUDACC__
  std::uint32_t bits;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(v));
  return bits;
#else
  const auto bits = __float_as_uint(v);
  return std::isnan(v) ? 0x7fffffff : std::isinf(v) ? bits : (bits + 0x1000) & ~0x1fffu;
#endif
}

/// d += a b for a warp, 16x8 += 16x8 times 8x8. With g = lane / 4 and t = lane % 4 a lane holds
/// a = A(g,t) A(g+8,t) A(g,t+4) A(g+8,t+4), b = B(t,g) B(t+4,g), d = D(g,2t) D(g,2t+1) D(g+8,2t) D(g+8,2t+1).
/// The twin: products exact, sums of d and four products cut towards zero (hardware cuts every addend, a few bits on).
#ifdef __CUDACC__
__device__ inline void mma_16x8x8(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]) {
  asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
#else
inline void mma_16x8x8(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2], MNEMO_SITE) {
  struct Shown {
    float a[4], b[2];
  } mine;
  for (int i = 0; i < 6; ++i) {
    const auto bits = i < 4 ? a[i] : b[i - 4];
    (i < 4 ? mine.a[i] : mine.b[i - 4]) = __uint_as_float(bits);
    if (bits << 19 && bits != 0x7fffffff) simt::block().fail("multiplies what is not tf32", at);
  }
  const int g = simt::lane() / 4, t = simt::lane() % 4;
  simt::collective(~0u, mine, at, [&](const auto& of) {
    for (int i = 0; i < 4; ++i) {
      for (int half = 0; half < 2; ++half) {
        double sum = d[i];
        for (int k = 0; k < 4; ++k) {
          sum += double(of(4 * g + k).a[i / 2 + 2 * half]) * of(4 * (2 * t + i % 2) + k).b[half];
        }
        d[i] = float(sum);
        if (std::isfinite(d[i]) && std::abs(double(d[i])) > std::abs(sum)) d[i] = nextafterf(d[i], 0);
      }
    }
    return 0;
  });
}
#endif

/// cp.async: `bytes` (4, 8 or 16, both ends so aligned) to shared memory, there once copy_wait says so; seen by other
/// threads after a barrier. The twin poisons the target until then.
template <int bytes>
__device__ inline void copy_async(void* to, const void* from) {
  static_assert(bytes == 4 || bytes == 8 || bytes == 16);
#ifdef __CUDACC__
  asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" ::"r"(unsigned(__cvta_generic_to_shared(to))), "l"(__cvta_generic_to_global(from)),
               "n"(bytes)
               : "memory");
#else
  if ((std::uintptr_t(to) | std::uintptr_t(from)) % bytes) simt::block().fail("copies from or to a crooked address");
  using Word [[gnu::may_alias]] = std::uint32_t;  // GCC hides a short memcpy from TSan
  for (int i = 0; i < bytes / 4; ++i) static_cast<Word*>(to)[i] = ~0u;
  simt::block().running->copies.back().push_back([=] {
    for (int i = 0; i < bytes / 4; ++i) static_cast<Word*>(to)[i] = static_cast<const Word*>(from)[i];
  });
#endif
}

/// Closes the group of this thread's copies.
__device__ inline void copy_commit() {
#ifdef __CUDACC__
  asm volatile("cp.async.commit_group;" ::: "memory");
#else
  simt::block().running->copies.emplace_back();
#endif
}

/// Waits for this thread's groups but the last `n`.
template <int n>
__device__ inline void copy_wait() {
#ifdef __CUDACC__
  asm volatile("cp.async.wait_group %0;" ::"n"(n) : "memory");
#else
  auto& groups = simt::block().running->copies;
  for (; groups.size() > n + 1; groups.erase(groups.begin())) {
    for (const auto& copy : groups.front()) copy();
  }
#endif
}

}  // namespace mnemo
