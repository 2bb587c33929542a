#pragma once

// LayerNorm, MLP, head and loss, forward and backward, in one kernel where C = D is small: the activations of kCellsABlock cells stay in shared
// memory. The same numbers as the kernels of models/ops/one_layer_mlp_cuda.cuh, up to rounding.

#include "models/ops/one_layer_mlp_cuda.cuh"

namespace mnemo::one_layer {

constexpr int kSide = kFusedWidth, kFusedThreads = 256;
static_assert(kCellsABlock == kSide);

/// [channel][cell] of activations, [output][input] of weights. A row's odd multiple of 16 bytes spreads columns over the banks.
using Square = float[kSide][kSide + 4];

/// N values of neighbouring rows of one column, the first of them the thread's value number `index`.
template <int N>
struct Run {
  int row, column, index;
  float value[N];
};

/// A thread's share of a product of squares, out[row, column] = sum over depth of a b. `Along` says that an operand is stored [row or column][depth],
/// not [depth][row or column].
template <bool kTf32>
class SquareSums;

/// 4 x 4 a thread. Rows of an `Along` operand are 16 apart, so that a warp meets all banks.
template <>
class SquareSums<false> {
 public:
  /// Depth: a multiple of 4. What lies past `rows` and `columns` may be left out; of rows if a is Along.
  template <bool kAAlong, bool kBAlong>
  __device__ void add(const Square& a, const Square& b, int depth, int rows, int columns) {
    if (column() >= columns) return;
    for (int k = 0; k < depth; k += 4) {
      float y[4][4];  // [depth][column], or [column][depth]
#pragma unroll
      for (int i = 0; i < 4; ++i) load4(kBAlong ? &b[column() + i][k] : &b[k + i][column()], y[i]);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        float x[4];  // of row i along the depth, or of depth i over the rows
        if (kAAlong && 16 * i >= rows) continue;
        load4(kAAlong ? &a[thread_row() + 16 * i][k] : &a[k + i][4 * thread_row()], x);
#pragma unroll
        for (int l = 0; l < 4; ++l) {
#pragma unroll
          for (int j = 0; j < 4; ++j) {
            if (kAAlong) {
              sum_[i][j] += x[l] * (kBAlong ? y[j][l] : y[l][j]);
            } else {
              sum_[l][j] += x[l] * (kBAlong ? y[j][i] : y[i][j]);
            }
          }
        }
      }
    }
  }
  /// each(Run<...>) of a product whose a is Along, or is not.
  template <bool kAAlong, class Each>
  __device__ void visit(const Each& each) const {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      if constexpr (kAAlong) {
#pragma unroll
        for (int i = 0; i < 4; ++i) each(Run<1>{thread_row() + 16 * i, column() + j, 4 * j + i, {sum_[i][j]}});
      } else {
        each(Run<4>{4 * thread_row(), column() + j, 4 * j, {sum_[0][j], sum_[1][j], sum_[2][j], sum_[3][j]}});
      }
    }
  }

 private:
  __device__ static int thread_row() { return static_cast<int>(threadIdx.x) % 16; }
  __device__ static int column() { return static_cast<int>(threadIdx.x) / 16 * 4; }
  float sum_[4][4] = {};
};

/// 32 x 16 a warp, in fragments of mma_16x8x8.
template <>
class SquareSums<true> {
 public:
  template <bool kAAlong, bool kBAlong>
  __device__ void add(const Square& a, const Square& b, int depth, int rows, int columns) {
    if (column() >= columns || (kAAlong && row() >= rows)) return;
    const int g = lane() / 4, t = lane() % 4;
#pragma unroll 1
    for (int k = 0; k < depth; k += 8) {
      std::uint32_t x[2][4], y[2][2];
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int at = k + 4 * half + t;
        const bool inside = k + 4 * half < depth;  // the depth is a multiple of 4
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int row_i = row() + 8 * i + g;
          x[i / 2][2 * half + i % 2] = inside ? to_tf32(kAAlong ? a[row_i][at] : a[at][row_i]) : 0;
        }
#pragma unroll
        for (int n = 0; n < 2; ++n) {
          const int column_n = column() + 8 * n + g;
          y[n][half] = inside ? to_tf32(kBAlong ? b[column_n][at] : b[at][column_n]) : 0;
        }
      }
#pragma unroll
      for (int m = 0; m < 2; ++m) {
#pragma unroll
        for (int n = 0; n < 2; ++n) mma_16x8x8(sum_[m][n], x[m], y[n]);
      }
    }
  }
  template <bool kAAlong, class Each>
  __device__ void visit(const Each& each) const {
    const int g = lane() / 4, t = lane() % 4;
#pragma unroll
    for (int i = 0; i < 16; ++i) {
      const int m = i / 8, n = i / 4 % 2, part = i % 4;
      each(Run<1>{row() + 16 * m + g + 8 * (part / 2), column() + 8 * n + 2 * t + part % 2, i, {sum_[m][n][part]}});
    }
  }

 private:
  __device__ static int lane() { return static_cast<int>(threadIdx.x) % 32; }
  __device__ static int row() { return static_cast<int>(threadIdx.x) / 128 * 32; }
  __device__ static int column() { return static_cast<int>(threadIdx.x) / 32 % 4 * 16; }
  float sum_[2][2][4] = {};
};

template <int N>
__device__ inline void store(Square& to, const Run<N>& run) {
  if constexpr (N == 4) {
    store4(&to[run.column][run.row], run.value);
  } else {
    to[run.column][run.row] = run.value[0];
  }
}

/// The work of a block on kCellsABlock cells from `first` on. `squares`: one for h of each layer and for its input, which the gradients by the
/// layers' arguments replace, then one for dh and one for the weights of a layer.
template <bool kTf32>
class FusedCells {
 public:
  /// `squares`: one for h of each layer and for its input, which the gradients by the layers' arguments replace, then dh and the weights of a layer.
  __device__ FusedCells(const Arguments& s, int r, int first, Square* squares, CellLosses& of)
      : s_(s), r_(r), first_(first), count_(min(kCellsABlock, s.cells(r) - first)), h_(squares), of_(of) {}

  /// Logits, or loss and slopes.
  __device__ void forward() {
    for (int c = warp(); c < kSide; c += kWarps) {
      for (int column = lane(); column < padded(); column += 32) {
        if (c >= count_ || column >= C()) h_[0][column][c] = 0;
      }
      if (c < count_) normalise_cell(s_, r_, first_ + c, [&](int column, float value) { h_[0][column][c] = value; });
    }
    for (int layer = 0; layer < layers(); ++layer) {
      load_weight(layer);
      __syncthreads();
      forward(layer);
      __syncthreads();
    }
    judge_cells();
  }

  /// After forward(): gradients, added to those of the chunk's earlier cells, if there are any.
  __device__ void backward(int chunk, bool is_first) {
    const auto block = static_cast<std::size_t>(r_) * s_.cell_blocks() + first_ / kCellsABlock;
    head_backward(block);
    for (int layer = layers() - 1; layer >= 0; --layer) {
      if (layer < layers() - 1) load_weight(layer);  // those of the last are there
      __syncthreads();
      backward(layer, s_.mlp_partial[layer] + (static_cast<std::size_t>(r_) * s_.chunks(layer) + chunk) * s_.layer_size(layer), is_first);
      __syncthreads();
    }
    normalise_backward(block);
  }

 private:
  __device__ static int lane() { return static_cast<int>(threadIdx.x) % 32; }
  __device__ static int warp() { return static_cast<int>(threadIdx.x) / 32; }
  __device__ int C() const { return s_.D(); }  // D = C is at hand
  __device__ int padded() const { return (C() + 3) / 4 * 4; }
  __device__ int layers() const { return s_.step.shape.mlp_layers; }
  __device__ Square& dh() { return h_[layers() + 1]; }
  __device__ Square& weight() { return h_[layers() + 2]; }

  __device__ void load_weight(int layer) {
    const float* const from = s_.parameter(r_, s_.step.offsets.mlp_weight[layer]);
    for (int i = threadIdx.x; i < padded() * kSide; i += kFusedThreads) {
      const int d = i / kSide, c = i % kSide;
      if (c < padded()) weight()[d][c] = d < C() && c < C() ? from[d * C() + c] : 0.F;
    }
  }

  /// h_{j+1} = relu(W h_j + b) + h_j; where relu passed is kept in the thread's bits.
  __device__ void forward(int layer) {
    const float* const bias = s_.parameter(r_, s_.step.offsets.mlp_bias[layer]);
    SquareSums<kTf32> sums;
    sums.template add<false, true>(h_[layer], weight(), padded(), kSide, C());
    std::uint64_t live = 0;
    sums.template visit<false>([&](auto run) {
      if (run.column >= padded()) return;
      constexpr int kRun = sizeof run.value / sizeof(float);
#pragma unroll
      for (int i = 0; i < kRun; ++i) {
        const float argument = run.column < C() ? run.value[i] + bias[run.column] : 0.F, below = h_[layer][run.column][run.row + i];
        live |= std::uint64_t{argument > 0} << (run.index + i);
        run.value[i] = relu(argument) + (layer > 0 ? below : 0.F);
      }
      store(h_[layer + 1], run);
    });
    live_ = live_ << 16 | live;
  }

  /// z of a cell by four threads, then its loss.
  __device__ void judge_cells() {
    MNEMO_SHARED(float[kFusedThreads / kSide][kSide], parts_of_z);
    const Head lm(s_, r_);
    const int c = threadIdx.x % kSide, part = threadIdx.x / kSide;
    float sum = 0;
    for (int d = part; d < C(); d += kFusedThreads / kSide) sum += lm.w(d) * h_[layers()][d][c];
    parts_of_z[part][c] = sum;
    __syncthreads();
    if (part == 0) {
      for (int p = 1; p < kFusedThreads / kSide; ++p) sum += parts_of_z[p][c];
      of_.slope[c] = 0;
      if (c < count_) judge(s_, r_, first_, c, sum + lm.b(), of_);
    }
    __syncthreads();
  }

  /// Sum over the block's cells of f(cell), by a warp.
  template <class F>
  __device__ static float over_cells(const F& f) {
    return warp_sum(f(lane()) + f(lane() + 32));
  }

  /// dh and the gradient by the last layer's argument from the slopes; the parts of the head's gradient and of the loss.
  __device__ void head_backward(std::size_t block) {
    const Head lm(s_, r_);
    for (int d = warp(); d <= C(); d += kWarps) {
      const float sum = over_cells([&](int c) { return of_.slope[c] * (d < C() ? h_[layers()][d][c] : 1.F); });
      if (lane() == 0) s_.head_partial[block * (C() + 1) + d] = sum;
    }
    if (warp() == 0) sum_losses(s_, block, count_, of_);
    __syncthreads();
    SquareSums<kTf32>().template visit<false>([&](auto run) {
      if (run.column >= padded()) return;
      constexpr int kRun = sizeof run.value / sizeof(float);
      const float w = run.column < C() ? lm.w(run.column) : 0.F;
      for (int i = 0; i < kRun; ++i) run.value[i] = of_.slope[run.row + i] * w;
      store_gradient(layers(), run);
    });
  }

  /// Stores dh_j, and in place of h_j the gradient by the argument of the layer that made it.
  template <int N>
  __device__ void store_gradient(int j, Run<N> run) {
    store(dh(), run);
    if (j == 0) return;
#pragma unroll
    for (int i = 0; i < N; ++i) run.value[i] = live_ >> (run.index + i) & 1 ? run.value[i] : 0.F;
    store(h_[j], run);
  }

  /// With da, the gradient by the layer's argument: dW = da^T h_j and db = da, to `part`; dh_j = da W + dh_{j+1}.
  __device__ void backward(int layer, float* part, bool is_first) {
    const Square& da = h_[layer + 1];
    const auto add_to = [&](float& to, float sum) { to = is_first ? sum : to + sum; };
    {
      SquareSums<kTf32> sums;
      sums.template add<true, true>(h_[layer], da, kSide, C(), C());  // [input, output]: neighbours in memory for neighbouring threads
      sums.template visit<true>([&](const auto& run) {
        if (run.row < C() && run.column < C()) add_to(part[run.column * C() + run.row], run.value[0]);
      });
    }
    for (int d = warp(); d < C(); d += kWarps) {
      const float sum = over_cells([&](int c) { return da[d][c]; });
      if (lane() == 0) add_to(part[C() * C() + d], sum);
    }
    SquareSums<kTf32> sums;
    sums.template add<false, false>(da, weight(), padded(), kSide, C());
    __syncthreads();  // nobody reads h_j any more
    live_ >>= 16;
    sums.template visit<false>([&](auto run) {
      if (run.column >= padded()) return;
      constexpr int kRun = sizeof run.value / sizeof(float);
      for (int i = 0; i < kRun && layer > 0; ++i) run.value[i] += dh()[run.column][run.row + i];
      store_gradient(layer, run);
    });
  }

  __device__ void normalise_backward(std::size_t block) {
    MNEMO_SHARED(float[kWarps][2][kSide], sums);
    for (int column = lane(); column < C(); column += 32) sums[warp()][0][column] = sums[warp()][1][column] = 0;
    for (int c = warp(); c < count_; c += kWarps) {
      normalise_cell_backward(s_, r_, first_ + c, [&](int column) { return dh()[column][c]; });
      const auto row = s_.row(r_, first_ + c);
      for (int column = lane(); column < C(); column += 32) {
        const float y = (s_.attended[row * s_.columns() + column] - s_.moments[2 * row]) * s_.moments[2 * row + 1];
        sums[warp()][0][column] += dh()[column][c] * y, sums[warp()][1][column] += dh()[column][c];
      }
    }
    __syncthreads();
    for (int i = threadIdx.x; i < 2 * C(); i += kFusedThreads) {
      float sum = 0;
      for (int w = 0; w < kWarps; ++w) sum += sums[w][i / C()][i % C()];
      s_.norm_partial[block * 2 * C() + i] = sum;
    }
  }

  const Arguments& s_;
  int r_, first_, count_;
  Square* h_;
  CellLosses& of_;
  std::uint64_t live_ = 0;  // 16 bits a layer, the last layer's lowest
};

/// Grid (chunks of N, R).
template <bool kTf32>
__global__ void __launch_bounds__(kFusedThreads, 2) fused_cells(Arguments s) {
  const int r = blockIdx.y, begin = blockIdx.x * s.chunk(0), end = min(begin + s.chunk(0), s.cells(r));
  if (begin >= end) return;
  MNEMO_DYNAMIC_SHARED(bytes);
  MNEMO_SHARED(CellLosses, of);
  for (int first = begin; first < end; first += kCellsABlock) {
    FusedCells<kTf32> cells(s, r, first, reinterpret_cast<Square*>(bytes), of);
    cells.forward();
    if (s.logits == nullptr) cells.backward(blockIdx.x, first == begin);
  }
}

}  // namespace mnemo::one_layer
