// The emulator against what CUDA promises, and its faults.

#include "simt_test.h"

#include <cmath>
#include <cstdint>
#include <functional>
#include <stdexcept>

namespace mnemo::simt {
namespace {

template <int n>
int last_of(int v) {  // its shared array differs by n
  MNEMO_SHARED(int[n], array);
  if (int(threadIdx.x) < n) array[threadIdx.x] = v;
  __syncthreads();
  return array[n - 1];
}
void arrays(int* out) { out[threadIdx.x] = last_of<4>(int(threadIdx.x)) + 100 * last_of<32>(int(threadIdx.x)); }

void halves(int* out) {               // the halves of a warp go through different numbers of collectives, then meet; a quick half
  const int lane = int(threadIdx.x);  // must not overwrite what a slow one has yet to read
  const int v = __shfl_xor_sync(~0u, lane, 1);
  if (lane < 16) {
    for (int i = 0; i < 3; ++i) __shfl_xor_sync(0xffffu, -1, 1);
  } else {
    __syncwarp(0xffff0000u);
  }
  out[lane] = v + 100 * __shfl_sync(~0u, lane, lane + 5);
}

void widths(int* out) {
  const int lane = int(threadIdx.x);
  out[lane] = __shfl_sync(~0u, lane, 9, 8) + 100 * __shfl_up_sync(~0u, lane, 3, 8) + 10000 * __shfl_down_sync(~0u, lane, 3, 8) +
              1000000 * __shfl_xor_sync(~0u, lane, 9, 8);
}

void shapes(int* out) {
  MNEMO_DYNAMIC_SHARED(bytes);
  int* const all = reinterpret_cast<int*>(bytes);
  const auto rank = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
  all[rank] = int(rank);
  const unsigned odd = __ballot_sync(~0u, rank % 2);
  __syncthreads();
  if (rank >= 60) return;  // those that have ended are not waited for
  __syncthreads();
  const auto block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
  atomicAdd(out + block, all[63 - rank] + (odd == 0xaaaaaaaa ? 1000 : 0));
}

void async(int* out) {
  MNEMO_SHARED(int[64], to);
  const int lane = int(threadIdx.x);
  copy_async<4>(&to[lane], out + lane), copy_commit();
  copy_async<4>(&to[32 + lane], out + 31 - lane), copy_commit();
  copy_wait<1>();
  __syncwarp();
  const int first = to[31 - lane], second = to[63 - lane];  // the second has not come: -1
  __syncwarp();
  copy_wait<0>();
  __syncwarp();
  out[lane] = first + 100 * second + 10000 * to[63 - lane];
}

constexpr int a_of(int row, int k) { return 3 * row - 5 * k + 1; }
constexpr int b_of(int k, int column) { return 7 * k - 2 * column - 9; }
void multiplies(int* out) {  // [16, 8] of A B + 1
  const int g = int(threadIdx.x) / 4, t = int(threadIdx.x) % 4;
  std::uint32_t a[4], b[2];
  float d[4] = {1, 1, 1, 1};
  for (int i = 0; i < 4; ++i) a[i] = to_tf32(float(a_of(g + 8 * (i % 2), t + 4 * (i / 2))));
  for (int i = 0; i < 2; ++i) b[i] = to_tf32(float(b_of(t + 4 * i, g)));
  mma_16x8x8(d, a, b);
  for (int i = 0; i < 4; ++i) out[8 * (g + 8 * (i / 2)) + 2 * t + i % 2] = int(d[i]);
}

template <class T>
void writes_one(T* out) {
  *out = 1;
}

template <auto kernel>
std::vector<int> result(const std::vector<int>& start, dim3 grid = 1, dim3 block = 32, std::size_t shared = 0) {
  return in_every_order([&] {
    const Device<int> out(start);
    launch<kernel>(grid, block, shared, nullptr, static_cast<int*>(out));
    return out.host();
  });
}

std::vector<int> of_lanes(const std::function<int(int)>& f) {
  std::vector<int> values;
  for (int lane = 0; lane < 32; ++lane) values.push_back(f(lane));
  return values;
}

TEST(Emulator, SharedArraysOfTemplatesDiffer) { EXPECT_EQ(result<arrays>(std::vector<int>(32)), std::vector<int>(32, 3 + 3100)); }

TEST(Emulator, HalvesOfAWarpGoTheirWaysAndMeet) {
  EXPECT_EQ(result<halves>(std::vector<int>(32)), of_lanes([](int l) { return (l ^ 1) + 100 * ((l + 5) % 32); }));
}

TEST(Emulator, ShufflesOfAWidthStayInTheirSegment) {
  EXPECT_EQ(result<widths>(std::vector<int>(32)),
            of_lanes([](int l) { return l / 8 * 8 + 1 + 100 * (l % 8 < 3 ? l : l - 3) + 10000 * (l % 8 > 4 ? l : l + 3) + 1000000 * l; }));
}

TEST(Emulator, GridsAndBlocksOfThreeDimensions) {
  EXPECT_EQ(result<shapes>(std::vector<int>(12), {2, 3, 2}, {4, 8, 2}, 256), std::vector<int>(12, 60000 + 2010));
}

TEST(Emulator, AsynchronousCopiesComeWhenWaitedFor) {
  EXPECT_EQ(result<async>(of_lanes([](int l) { return l; })), of_lanes([](int l) { return (31 - l) - 100 + 10000 * l; }));
}

TEST(Emulator, MultipliesTiles) {
  std::vector<int> want;
  for (int row = 0; row < 16; ++row) {
    for (int column = 0; column < 8; ++column) {
      int sum = 1;
      for (int k = 0; k < 8; ++k) sum += a_of(row, k) * b_of(k, column);
      want.push_back(sum);
    }
  }
  EXPECT_EQ(result<multiplies>(std::vector<int>(16 * 8)), want);
}

double rounded_to_tf32(double v) {  // 11 significant bits, to nearest, ties away; no smaller step than a float has
  int exponent;
  std::frexp(v, &exponent);
  const int step = std::max(exponent, -125) - 11;
  const double rounded = std::ldexp(std::round(std::ldexp(v, -step)), step);
  return std::abs(rounded) > std::numeric_limits<float>::max() ? std::copysign(INFINITY, v) : rounded;
}

TEST(Emulator, RoundsToTf32) {
  Random random;
  for (int i = 0; i < 1 << 18; ++i) {
    auto bits = static_cast<std::uint32_t>(random.bits());
    if (i % 4 == 0) bits = (bits & ~0x1fffu) | 0x1000;                                    // a tie
    if (i % 4 == 1) bits = (bits & ~0x1fffu) | (0xfff + std::uint32_t(random.below(3)));  // about one
    if (i % 64 == 2) bits &= 0x807fffff;                                                  // subnormal
    const float v = __uint_as_float(bits);
    if (!std::isfinite(v)) continue;
    ASSERT_EQ(__uint_as_float(to_tf32(v)), rounded_to_tf32(v)) << bits;
  }
  EXPECT_EQ(to_tf32(INFINITY), 0x7f800000u);
  EXPECT_EQ(to_tf32(kNan), 0x7fffffffu);
}

// ---- faults

void divergent_barrier(int*) {
  if (threadIdx.x < 16) {
    __syncthreads();
  } else {
    __syncthreads();
  }
}
void barrier_and_warp(int*) { threadIdx.x < 16 ? __syncthreads() : __syncwarp(); }
void half_a_warp(int*) {
  if (threadIdx.x < 16) __syncwarp();
}
void other_masks(int*) { __syncwarp(threadIdx.x < 16 ? ~0u : 0xfffffffeu); }
void outside_its_mask(int*) { __syncwarp(0xff); }
void reads_outside_mask(int* out) {
  if (threadIdx.x < 16) out[threadIdx.x] = __shfl_sync(0xffffu, 1, 20);
}
void too_much_static(int*) {
  MNEMO_SHARED(float[12289], a);
  a[0] = 0;
}
void copy_in_flight(int* out) {
  MNEMO_SHARED(int[32], to);
  copy_async<4>(&to[threadIdx.x], out + threadIdx.x);
}
void crooked_copy(int* out) {
  MNEMO_SHARED(int[33], to);
  copy_async<8>(&to[1], out);
}
void not_tf32(int*) {
  float d[4] = {};
  mma_16x8x8(d, {0x3f800001, 0, 0, 0}, {0, 0});
}
void throws(int*) { throw Fault("simt: thrown in a kernel"); }
void deep(int*) { *static_cast<char*>(const_cast<void*>(block().running->bottom)) = 0; }

template <auto kernel>
std::string fault(dim3 grid = 1, dim3 size = 32, std::size_t shared = 0) {
  const Device<int> out(std::vector<int>(64));
  try {
    launch<kernel>(grid, size, shared, nullptr, static_cast<int*>(out));
  } catch (const Fault& fault) {
    return fault.what();
  }
  return "nothing";
}

#define EXPECT_FAULT(text, ...) EXPECT_PRED_FORMAT2(::testing::IsSubstring, text, fault < __VA_ARGS__)

TEST(Emulator, BarriersThatNotAllReach) {
  EXPECT_FAULT("waits for ever; 16 threads at ", divergent_barrier > ());
  EXPECT_FAULT(", mask 4294967295", barrier_and_warp > ());
  EXPECT_FAULT("16 threads have ended", half_a_warp > ());
}

TEST(Emulator, MasksThatDoNotFit) {
  EXPECT_FAULT("is outside its own mask", other_masks > (1, 64));
  EXPECT_FAULT("is outside its own mask", outside_its_mask > ());
  EXPECT_FAULT("reads a lane outside its mask", reads_outside_mask > ());
  EXPECT_FAULT("waits for a lane that does not exist", shapes > (1, 20, 256));
}

TEST(Emulator, CopiesAndOperandsThatNoGpuTakes) {
  EXPECT_FAULT("ends with a copy in flight", copy_in_flight > ());
  EXPECT_FAULT("crooked address", crooked_copy > ());
  EXPECT_FAULT("what is not tf32", not_tf32 > ());
}

TEST(Emulator, LaunchesThatNoGpuTakes) {
  EXPECT_FAULT("no GPU takes", arrays > (0));
  EXPECT_FAULT("no GPU takes", arrays > (1, 1056));
  EXPECT_FAULT("no GPU takes", arrays > ({1, 65536}));
  EXPECT_FAULT("no GPU takes", arrays > (1, {1, 1, 65}));
  EXPECT_FAULT("no GPU takes", arrays > (1, 32, (227 << 10) + 1));
  EXPECT_FAULT("too much shared memory", too_much_static > ());
}

TEST(Emulator, ErrorsOfThreadsComeOut) {
  EXPECT_FAULT("thrown in a kernel", throws > ());
  EXPECT_FAULT("needs more stack", deep > ());
}

TEST(Emulator, NamesWhatItLaunches) {
  int stream = 0;
  const Device<int> out(std::vector<int>(64));
  const auto before = around_launch;
  around_launch = [&](const Launch& given, const auto&) { EXPECT_EQ(given.stream, &stream); };
  launch<arrays>(1, 32, 0, &stream, static_cast<int*>(out));
  around_launch = before;
  EXPECT_EQ(out.host(), std::vector<int>(64)) << "ran all the same";
  const auto names = launched_by([&] {
    launch<arrays>(1, 32, 0, nullptr, static_cast<int*>(out));
    launch<writes_one<int>>(1, 1, 0, nullptr, static_cast<int*>(out));
  });
  EXPECT_EQ(names, (std::vector<std::string>{"arrays", "writes_one<int>"}));
}

}  // namespace
}  // namespace mnemo::simt
