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

/// What is there of a square of kGemmSide of out[row, column] = sum over depth of a(row, depth) b(depth, column); all count from the square's corner.
struct GemmTile {
  int rows, columns, depths;  ///< without rows the block leaves
};

constexpr int kGemmSide = 64, kGemmThreads = 128;
/// First row and column of a product's square.
__device__ inline int square_row() { return static_cast<int>(blockIdx.x) * kGemmSide; }
__device__ inline int square_column() { return static_cast<int>(blockIdx.y) * kGemmSide; }

namespace gemm_detail {

constexpr int kDepth = 16;              // of the sum at a time
constexpr int kStride = kGemmSide + 8;  // the 32 lanes of an mma fragment meet 32 banks; rows begin at multiples of 16 bytes
constexpr int kFetches = kGemmSide * kDepth / kGemmThreads;

struct alignas(16) Panel {
  float at[kDepth][kStride];
  __device__ float (&operator[](int depth))[kStride] { return at[depth]; }
  __device__ const float (&operator[](int depth) const)[kStride] { return at[depth]; }
};

struct Place {
  int side, depth;
};
/// The f-th element of a panel that a thread fetches: neighbouring threads go along the depth or along the side, as the memory lies.
template <bool kAlongDepth>
__device__ inline Place place(int f) {
  const int i = f * kGemmThreads + static_cast<int>(threadIdx.x);
  return kAlongDepth ? Place{i / kDepth, i % kDepth} : Place{i % kGemmSide, i / kGemmSide};
}

/// What a thread has of a tile of sums; each(row, column, sum) visits it.
template <bool kTf32>
class Sums;

/// 8 x 4 neighbours a thread.
template <>
class Sums<false> {
 public:
  __device__ void add(const Panel& a, const Panel& b) {
#pragma unroll
    for (int k = 0; k < kDepth; ++k) {
      float x[8], y[4];
      load4(&a[k][row()], x), load4(&a[k][row() + 4], x + 4), load4(&b[k][column()], y);
#pragma unroll
      for (int i = 0; i < 8; ++i) {
#pragma unroll
        for (int j = 0; j < 4; ++j) sum_[i][j] += x[i] * y[j];
      }
    }
  }
  template <class Each>
  __device__ void visit(const Each& each) const {
#pragma unroll
    for (int i = 0; i < 8; ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j) each(row() + i, column() + j, sum_[i][j]);
    }
  }

 private:
  __device__ static int row() { return static_cast<int>(threadIdx.x) / 16 * 8; }
  __device__ static int column() { return static_cast<int>(threadIdx.x) % 16 * 4; }
  float sum_[8][4] = {};
};

/// 32 x 32 a warp, in fragments of mma_16x8x8.
template <>
class Sums<true> {
 public:
  __device__ void add(const Panel& a, const Panel& b) {
    const int g = lane() / 4, t = lane() % 4;
#pragma unroll
    for (int k = 0; k < kDepth; k += 8) {
      std::uint32_t x[2][4], y[4][2];
#pragma unroll
      for (int m = 0; m < 2; ++m) {
#pragma unroll
        for (int i = 0; i < 4; ++i) x[m][i] = to_tf32(a[k + t + 4 * (i / 2)][row() + 16 * m + g + 8 * (i % 2)]);
      }
#pragma unroll
      for (int n = 0; n < 4; ++n) {
#pragma unroll
        for (int i = 0; i < 2; ++i) y[n][i] = to_tf32(b[k + t + 4 * i][column() + 8 * n + g]);
      }
#pragma unroll
      for (int m = 0; m < 2; ++m) {
#pragma unroll
        for (int n = 0; n < 4; ++n) mma_16x8x8(sum_[m][n], x[m], y[n]);
      }
    }
  }
  template <class Each>
  __device__ void visit(const Each& each) const {
    const int g = lane() / 4, t = lane() % 4;
#pragma unroll
    for (int m = 0; m < 2; ++m) {
#pragma unroll
      for (int n = 0; n < 4; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) each(row() + 16 * m + g + 8 * (i / 2), column() + 8 * n + 2 * t + i % 2, sum_[m][n][i]);
      }
    }
  }

 private:
  __device__ static int lane() { return static_cast<int>(threadIdx.x) % 32; }
  __device__ static int row() { return static_cast<int>(threadIdx.x) / 64 * 32; }
  __device__ static int column() { return static_cast<int>(threadIdx.x) / 32 % 2 * 32; }
  float sum_[2][4][4] = {};
};

}  // namespace gemm_detail

/// A product in tiles, by kGemmThreads threads. A Product is made by every thread from (arguments, part) and blockIdx: it moves its pointers to the
/// corner of the block's square, so that 32 bits hold what is added to them. It has
///   GemmTile tile
///   kAAlongDepth, kBAlongDepth   whether neighbours in memory of a and b differ in the depth
///   a(row, depth), b(depth, column), out(row, column, sum)
///   kRowSums                     whether out_row_sum(row, sum over depth of a) is wanted, of the blocks of blockIdx.y = 0
/// float32 products, or tf32 ones, summed in float32.
template <bool kTf32, class Product>
__device__ inline void multiply_tile(const Product& product) {
  using namespace gemm_detail;
  const GemmTile& tile = product.tile;
  if (tile.rows <= 0) return;
  MNEMO_SHARED(Panel, a);
  MNEMO_SHARED(Panel, b);

  float next_a[kFetches], next_b[kFetches];  // come from memory while the panels before them are multiplied
  const auto fetch = [&](int k) {
#pragma unroll
    for (int f = 0; f < kFetches; ++f) {
      const auto at = place<Product::kAAlongDepth>(f);
      next_a[f] = k + at.depth < tile.depths && at.side < tile.rows ? product.a(at.side, k + at.depth) : 0.F;
    }
#pragma unroll
    for (int f = 0; f < kFetches; ++f) {
      const auto at = place<Product::kBAlongDepth>(f);
      next_b[f] = k + at.depth < tile.depths && at.side < tile.columns ? product.b(k + at.depth, at.side) : 0.F;
    }
  };
  Sums<kTf32> sums;
  float row_sum = 0;
  fetch(0);
  for (int k = 0; k < tile.depths; k += kDepth) {
    __syncthreads();  // nobody reads the last panels any more
#pragma unroll
    for (int f = 0; f < kFetches; ++f) {
      const auto at_a = place<Product::kAAlongDepth>(f), at_b = place<Product::kBAlongDepth>(f);
      a[at_a.depth][at_a.side] = next_a[f];
      b[at_b.depth][at_b.side] = next_b[f];
    }
    __syncthreads();
    fetch(k + kDepth);
    sums.add(a, b);
    if (Product::kRowSums && blockIdx.y == 0 && threadIdx.x < kGemmSide) {
      for (int depth = 0; depth < kDepth; ++depth) row_sum += a[depth][threadIdx.x];
    }
  }
  sums.visit([&](int row, int column, float sum) {
    if (row < tile.rows && column < tile.columns) product.out(row, column, sum);
  });
  if constexpr (Product::kRowSums) {
    if (blockIdx.y == 0 && static_cast<int>(threadIdx.x) < min(kGemmSide, tile.rows)) product.out_row_sum(static_cast<int>(threadIdx.x), row_sum);
  }
}

template <class Product, bool kTf32, class Arguments>
__global__ void __launch_bounds__(kGemmThreads) gemm(Arguments arguments, int part) {
  multiply_tile<kTf32>(Product(arguments, part));
}

/// Two products that do not need one another: the blocks below `blocks` along x belong to the first. Each is made from (arguments, part, x), x
/// counted from its own first block.
template <class First, class Second, bool kTf32, class Arguments>
__global__ void __launch_bounds__(kGemmThreads, 3) gemm_pair(Arguments arguments, int part, int blocks) {
  const int x = static_cast<int>(blockIdx.x);
  if (x < blocks) {
    multiply_tile<kTf32>(First(arguments, part, x));
  } else {
    multiply_tile<kTf32>(Second(arguments, part, x - blocks));
  }
}

}  // namespace mnemo
