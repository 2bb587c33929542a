#pragma once

// Products of matrices in tiles, for kernels. C++17.

#include "core/warp.h"

namespace mnemo {

/// Four floats at a multiple of 16 bytes.
__device__ inline void load4(const float* from, float* to) {
  const float4 four = *reinterpret_cast<const float4*>(from);
  to[0] = four.x, to[1] = four.y, to[2] = four.z, to[3] = four.w;
}
__device__ inline void store4(float* to, const float* from) { *reinterpret_cast<float4*>(to) = float4{from[0], from[1], from[2], from[3]}; }

/// What is there of a square of out[row, column] = sum over depth of a(row, depth) b(depth, column); all count from the square's corner.
struct GemmTile {
  int rows, columns, depths;  ///< without rows the block leaves
};

/// Sides of the squares of sums that a block makes, by two threads a row: a large one does 32 operations a byte that it asks for, a small one 16.
constexpr int kGemmSide = 64, kLargeGemmSide = 128;
constexpr unsigned gemm_threads(int side) { return 2 * static_cast<unsigned>(side); }

/// Whether a product that takes `small` small squares or `large` large ones is better made of large ones: there is one for each SM of an H100, and
/// they cover at most a quarter more.
constexpr bool large_squares_pay(std::int64_t small, std::int64_t large) { return large >= 132 && 16 * large <= 5 * small; }

/// Which square of a product: its number along the rows and along the columns.
struct GemmSquare {
  int x, y, side;

  __device__ int row() const { return x * side; }
  __device__ int column() const { return y * side; }
};

namespace gemm_detail {

/// Of the sum at a time; no deeper in a large square, where registers are short.
template <int kSide>
constexpr int kDepthOf = kSide == kGemmSide ? 16 : 8;

template <int kSide>
struct alignas(16) Panel {
  float at[kDepthOf<kSide>][kSide + 8];  // the 32 lanes of an mma fragment meet 32 banks; rows begin at multiples of 16 bytes
  __device__ float (&operator[](int depth))[kSide + 8] { return at[depth]; }
  __device__ const float (&operator[](int depth) const)[kSide + 8] { return at[depth]; }
};
template <int kSide>
struct PanelPair {
  Panel<kSide> a, b;
};
/// One pair is written while the other is multiplied.
template <int kSide>
using Panels = PanelPair<kSide>[2];

struct Place {
  int side, depth;
};
/// The f-th element of a panel that a thread fetches: neighbouring threads go along the depth or along the side, as the memory lies; in the second
/// case a thread stays at one place of the side.
template <bool kAlongDepth, int kSide>
__device__ inline Place place(int f) {
  constexpr int kDepth = kDepthOf<kSide>;
  const int i = f * 2 * kSide + static_cast<int>(threadIdx.x);
  return kAlongDepth ? Place{i / kDepth, i % kDepth} : Place{i % kSide, i / kSide};
}

/// A thread's share of a square of sums: at(i, j) of row(i), column(j); rows rise with i. Panels hold operands as stored() gives them. Every sum is
/// made in the order of the depth, so that a square of any side has the same bits.
template <bool kTf32, int kSide>
class Sums;

/// 8 rows a thread, times 4 columns of each 64.
template <int kSide>
class Sums<false, kSide> {
 public:
  static constexpr int kRows = 8, kColumns = kSide / 16;
  __device__ static int row(int i) { return static_cast<int>(threadIdx.x) / 16 * 8 + i; }
  __device__ static int column(int j) { return j / 4 * 64 + static_cast<int>(threadIdx.x) % 16 * 4 + j % 4; }
  __device__ float at(int i, int j) const { return sum_[i][j]; }

  __device__ static float stored(float v) { return v; }
  __device__ void add(const Panel<kSide>& a, const Panel<kSide>& b) {
#pragma unroll
    for (int k = 0; k < kDepthOf<kSide>; ++k) {
      float x[kRows], y[kColumns];
#pragma unroll
      for (int i = 0; i < kRows; i += 4) load4(&a[k][row(i)], x + i);
#pragma unroll
      for (int j = 0; j < kColumns; j += 4) load4(&b[k][column(j)], y + j);
#pragma unroll
      for (int i = 0; i < kRows; ++i) {
#pragma unroll
        for (int j = 0; j < kColumns; ++j) sum_[i][j] += x[i] * y[j];
      }
    }
  }

 private:
  float sum_[kRows][kColumns] = {};
};

/// Half of the rows times 32 columns a warp, in fragments of mma_16x8x8.
template <int kSide>
class Sums<true, kSide> {
 public:
  static constexpr int kRows = kSide / 16, kColumns = 8;
  __device__ static int row(int i) { return warp() / kAcross * (kSide / 2) + 8 * i + lane() / 4; }
  __device__ static int column(int j) { return warp() % kAcross * 32 + j / 2 * 8 + lane() % 4 * 2 + j % 2; }
  __device__ float at(int i, int j) const { return sum_[i / 2][j / 2][i % 2 * 2 + j % 2]; }

  __device__ static float stored(float v) { return __uint_as_float(to_tf32(v)); }
  __device__ void add(const Panel<kSide>& a, const Panel<kSide>& b) {
    const int t = lane() % 4, column = warp() % kAcross * 32 + lane() / 4;
#pragma unroll
    for (int k = 0; k < kDepthOf<kSide>; k += 8) {
      std::uint32_t x[kFragments][4], y[4][2];
#pragma unroll
      for (int m = 0; m < kFragments; ++m) {
#pragma unroll
        for (int i = 0; i < 4; ++i) x[m][i] = __float_as_uint(a[k + t + 4 * (i / 2)][row(2 * m + i % 2)]);
      }
#pragma unroll
      for (int n = 0; n < 4; ++n) {
#pragma unroll
        for (int i = 0; i < 2; ++i) y[n][i] = __float_as_uint(b[k + t + 4 * i][column + 8 * n]);
      }
#pragma unroll
      for (int m = 0; m < kFragments; ++m) {
#pragma unroll
        for (int n = 0; n < 4; ++n) mma_16x8x8(sum_[m][n], x[m], y[n]);
      }
    }
  }

 private:
  static constexpr int kAcross = kSide / 32, kFragments = kSide / 32;  // warps side by side; a warp's fragments one below the other
  __device__ static int lane() { return static_cast<int>(threadIdx.x) % 32; }
  __device__ static int warp() { return static_cast<int>(threadIdx.x) / 32; }
  float sum_[kFragments][4][4] = {};
};

/// Hands a thread's sums of a row to out(). Their addends are all asked for first: one after another they would take longer than the sums.
template <class Product, class Own>
__device__ inline void write_row(const Product& product, const Own& sums, int i) {
  [[maybe_unused]] float addend[Own::kColumns];
  if constexpr (Product::kAddends) {
#pragma unroll
    for (int j = 0; j < Own::kColumns; ++j) addend[j] = Own::column(j) < product.tile.columns ? product.addend(Own::row(i), Own::column(j)) : 0.F;
  }
#pragma unroll
  for (int j = 0; j < Own::kColumns; ++j) {
    if (Own::column(j) >= product.tile.columns) continue;
    if constexpr (Product::kAddends) {
      product.out(Own::row(i), Own::column(j), sums.at(i, j), addend[j]);
    } else {
      product.out(Own::row(i), Own::column(j), sums.at(i, j));
    }
  }
}

/// A square of a product, by gemm_threads(kSide) threads. A Product is made by every thread from (arguments, part, GemmSquare): it moves its pointers
/// to the square's corner, so that 32 bits hold what is added to them. It has
///   GemmTile tile
///   kAAlongDepth, kBAlongDepth   whether neighbours in memory of a and b differ in the depth
///   a(row, depth), b(depth, column), out(row, column, sum)
///   kAddends                     whether out takes a fourth number, addend(row, column), which nobody writes meanwhile
///   kRowSums                     whether out_row_sum(row, sum over depth of a) is wanted, of the squares of y = 0; neighbours of a are rows then
/// float32 products, or tf32 ones, summed in float32. Row sums are of float32 always.
template <bool kTf32, int kSide, class Product>
__device__ inline void multiply(const Product& product, Panels<kSide>& panels) {
  const GemmTile& tile = product.tile;
  if (tile.rows <= 0) return;
  using Own = Sums<kTf32, kSide>;
  constexpr int kDepth = kDepthOf<kSide>, kFetches = kDepth / 2;
  const int thread = static_cast<int>(threadIdx.x);

  float next_a[kFetches], next_b[kFetches];  // come from memory while the panels before them are multiplied
  const auto fetch = [&](int k) {
#pragma unroll
    for (int f = 0; f < kFetches; ++f) {
      const auto at = place<Product::kAAlongDepth, kSide>(f);
      next_a[f] = k + at.depth < tile.depths && at.side < tile.rows ? product.a(at.side, k + at.depth) : 0.F;
    }
#pragma unroll
    for (int f = 0; f < kFetches; ++f) {
      const auto at = place<Product::kBAlongDepth, kSide>(f);
      next_b[f] = k + at.depth < tile.depths && at.side < tile.columns ? product.b(k + at.depth, at.side) : 0.F;
    }
  };
  Own sums;
  float row_sum = 0;  // of every other depth
  fetch(0);
  for (int k = 0; k < tile.depths; k += kDepth) {
    auto& pair = panels[k / kDepth % 2];
#pragma unroll
    for (int f = 0; f < kFetches; ++f) {
      const auto at_a = place<Product::kAAlongDepth, kSide>(f), at_b = place<Product::kBAlongDepth, kSide>(f);
      pair.a[at_a.depth][at_a.side] = Own::stored(next_a[f]);
      pair.b[at_b.depth][at_b.side] = Own::stored(next_b[f]);
      if (Product::kRowSums) row_sum += next_a[f];
    }
    __syncthreads();  // this pair is there, and nobody reads the other one any more
    fetch(k + kDepth);
    sums.add(pair.a, pair.b);
  }
#pragma unroll
  for (int i = 0; i < Own::kRows && Own::row(i) < tile.rows; ++i) write_row(product, sums, i);
  if constexpr (Product::kRowSums) {
    static_assert(!Product::kAAlongDepth);
    if (blockIdx.y > 0) return;
    float* const halves = panels[0].a[0];
    __syncthreads();  // nobody reads the panels any more
    if (thread >= kSide) halves[thread - kSide] = row_sum;
    __syncthreads();
    if (thread < min(kSide, tile.rows)) product.out_row_sum(thread, row_sum + halves[thread]);
  }
}

constexpr unsigned least_blocks(int side) { return side == kGemmSide ? 3 : 2; }  // that an SM has registers for

}  // namespace gemm_detail

/// Grid (squares along the rows, along the columns, whatever the product makes of blockIdx.z).
template <class Product, bool kTf32, int kSide, class Arguments>
__global__ void __launch_bounds__(gemm_threads(kSide), gemm_detail::least_blocks(kSide)) gemm(Arguments arguments, int part) {
  MNEMO_SHARED(gemm_detail::Panels<kSide>, panels);
  gemm_detail::multiply<kTf32, kSide>(Product(arguments, part, GemmSquare{int(blockIdx.x), int(blockIdx.y), kSide}), panels);
}

/// Two products that do not need one another: the blocks below `blocks` along x belong to the first.
template <class First, class Second, bool kTf32, int kSide, class Arguments>
__global__ void __launch_bounds__(gemm_threads(kSide), gemm_detail::least_blocks(kSide)) gemm_pair(Arguments arguments, int part, int blocks) {
  MNEMO_SHARED(gemm_detail::Panels<kSide>, panels);
  const int x = static_cast<int>(blockIdx.x), y = static_cast<int>(blockIdx.y);
  if (x < blocks) {
    gemm_detail::multiply<kTf32, kSide>(First(arguments, part, GemmSquare{x, y, kSide}), panels);
  } else {
    gemm_detail::multiply<kTf32, kSide>(Second(arguments, part, GemmSquare{x - blocks, y, kSide}), panels);
  }
}

}  // namespace mnemo
