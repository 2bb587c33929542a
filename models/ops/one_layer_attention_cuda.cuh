#pragma once

// Attention over the tables of the 2P tokens, forward and backward (MATHS 2.1; models/ops/binary_attention.h is the same on the CPU): kernels of
// models/ops/one_layer_cuda.cu. Blocks that a replica has no cells for leave at once, so that its gradients are zeros and not NaN of its weights.

#include "models/ops/cuda_gemm.cuh"
#include "models/ops/one_layer_cuda_arguments.h"

#include <cmath>

namespace mnemo::one_layer {

/// x = wte[bit] + wpe[position] of tokens, from an even one and a column on.
struct TokenInputs {
  const float *wte, *wpe;
  int C;

  __device__ TokenInputs(const Arguments& s, int r, int token, int column)
      : wte(s.parameter(r, s.step.offsets.wte) + column), wpe(s.parameter(r, s.step.offsets.wpe) + token / 2 * s.C() + column), C(s.C()) {}
  __device__ float at(int token, int c) const { return wte[token % 2 * C + c] + wpe[token / 2 * C + c]; }
};

/// q, k, v of all tokens. Grid (tiles of 2P, tiles of 3C, R).
struct ProjectTokens {
  static constexpr bool kAAlongDepth = true, kBAlongDepth = true, kRowSums = false, kAddends = false;
  GemmTile tile;
  int C;
  TokenInputs inputs;
  const float *weight, *bias;
  float* to;

  __device__ ProjectTokens(const Arguments& s, int, const GemmSquare& at) : C(s.C()), inputs(s, static_cast<int>(blockIdx.z), at.row(), 0) {
    const int r = static_cast<int>(blockIdx.z), row = at.row(), column = at.column();
    tile = {s.cells(r) > 0 ? s.tokens() - row : 0, 3 * C - column, C};
    weight = s.parameter(r, s.step.offsets.c_attn_weight) + column * C, bias = s.parameter(r, s.step.offsets.c_attn_bias) + column;
    to = s.qkv + s.token_row(r, row) * 3 * C + column;
  }
  __device__ float a(int token, int k) const { return inputs.at(token, k); }
  __device__ float b(int k, int column) const { return weight[column * C + k]; }
  __device__ void out(int token, int column, float sum) const { to[token * 3 * C + column] = sum + bias[column]; }
};

/// G = q . k / sqrt(F), in the squares that have tokens of a row's past or its own position. Grid (tiles of 2P, tiles of 2P, R H).
struct Scores {
  static constexpr bool kAAlongDepth = true, kBAlongDepth = true, kRowSums = false, kAddends = false;
  GemmTile tile;
  int stride, tokens;
  const float *q, *k;
  float scale;
  float* to;

  __device__ Scores(const Arguments& s, int, const GemmSquare& at) : stride(3 * s.C()), tokens(s.tokens()) {
    const int H = s.step.shape.heads, F = s.step.shape.head_dim, r = static_cast<int>(blockIdx.z) / H, head = static_cast<int>(blockIdx.z) % H;
    const int row = at.row(), column = at.column();
    tile = {s.cells(r) > 0 && column <= row ? tokens - row : 0, tokens - column, F};
    q = s.qkv + s.token_row(r, row) * stride + head * F, k = s.qkv + s.token_row(r, column) * stride + s.C() + head * F;
    scale = 1 / sqrtf(static_cast<float>(F));
    to = s.score + s.score_row(r, head, row) + column;
  }
  __device__ float a(int token, int f) const { return q[token * stride + f]; }
  __device__ float b(int f, int token) const { return k[token * stride + f]; }
  __device__ void out(int row, int token, float sum) const { to[row * tokens + token] = sum * scale; }
};

constexpr int kWarps = 8;  // a block, each with work of its own

/// E and the gap flag of a row (head, token), a warp a row. A cell sees its own token and one of each earlier pair, so its largest score is at least
/// max(own, max over pairs of the pair's minimum). The other bit of its own position, which it does not see, may have any score. Grid (parts of 2P,
/// H, R).
__global__ void __launch_bounds__(32 * kWarps) weigh_scores(Arguments s) {
  const int lane = threadIdx.x % 32, r = blockIdx.z, head = blockIdx.y, row = blockIdx.x * kWarps + threadIdx.x / 32;
  if (row >= s.tokens() || s.cells(r) == 0) return;
  const int past = row / 2;
  const float* const G = s.score + s.score_row(r, head, row);
  float* const E = s.weight + s.score_row(r, head, row);
  float largest = G[row], visible = largest;
  for (int j = lane; j < past; j += 32) {
    largest = fmaxf(largest, fmaxf(G[2 * j], G[2 * j + 1]));
    visible = fmaxf(visible, fminf(G[2 * j], G[2 * j + 1]));
  }
  largest = warp_max(largest), visible = warp_max(visible);
  for (int token = lane; token < 2 * past + 2; token += 32) E[token] = token == (row ^ 1) ? 0.F : expf(G[token] - largest);
  if (lane == 0) s.gap[(static_cast<std::size_t>(r) * s.step.shape.heads + head) * s.tokens() + row] = !(largest - visible <= kMaxGap);
}

/// What a lane attends with: a column of [V | 1] with the row of its head.
struct Column {
  int index, head, stride;
  bool is_value, gap;
  const float *G, *E, *V;

  __device__ Column(const Arguments& s, int r, int group) : index(static_cast<int>(blockIdx.y) * kColumns + static_cast<int>(threadIdx.x) % 32) {
    const int C = s.C(), H = s.step.shape.heads;
    stride = 3 * C, is_value = index < C;
    head = is_value ? index / s.step.shape.head_dim : index < C + H ? index - C : -1;
    gap = head >= 0 && s.gap[(static_cast<std::size_t>(r) * H + head) * s.tokens() + group];
    G = s.score + s.score_row(r, head < 0 ? 0 : head, group), E = s.weight + s.score_row(r, head < 0 ? 0 : head, group);
    V = s.qkv + s.token_row(r, 0) * stride + 2 * C + index;
  }
  __device__ bool exists() const { return head >= 0; }
  __device__ float value(int token) const { return is_value ? V[static_cast<std::size_t>(token) * stride] : 1.F; }
};

__device__ inline int bit_at(const std::uint64_t* bits, int position) { return static_cast<int>(bits[position / 64] >> (63 - position % 64) & 1); }

/// [num | z] of a cell relative to the largest score that it sees itself.
__device__ inline float attend_by_own_maximum(const Column& column, const std::uint64_t* bits, int last, float& top) {
  top = -INFINITY;
  for (int j = 0; j <= last; ++j) top = fmaxf(top, column.G[2 * j + bit_at(bits, j)]);
  float sum = 0;
  for (int j = 0; j <= last; ++j) {
    const int token = 2 * j + bit_at(bits, j);
    sum += expf(column.G[token] - top) * column.value(token);
  }
  return sum;
}

constexpr int kQuads = 8;                           // tables at a time, each of 4 positions: half a word of bits
constexpr int kAttendCells = kAttendTile / kWarps;  // a warp

using PatternSums = float[kQuads][16][kColumns];

/// sums[bits of 4 positions from `first` on][lane] = sum of E [V | 1] over those tokens; positions past `last` add nothing.
__device__ inline void sum_patterns(const Column& column, int first, int last, float (&sums)[16][kColumns]) {
  float value[4][2];
#pragma unroll
  for (int p = 0; p < 4; ++p) {
#pragma unroll
    for (int bit = 0; bit < 2; ++bit) {
      const int token = 2 * (first + p) + bit;
      value[p][bit] = first + p <= last && column.exists() ? column.E[token] * column.value(token) : 0.F;
    }
  }
#pragma unroll
  for (int pattern = 0; pattern < 16; ++pattern) {
    sums[pattern][threadIdx.x % 32] = (value[0][pattern >> 3] + value[1][pattern >> 2 & 1]) + (value[2][pattern >> 1 & 1] + value[3][pattern & 1]);
  }
}

/// attended = [num | z] of the cells of a group: one addition for 4 positions. Grid (groups x tiles of B cells, parts of A, R).
__global__ void __launch_bounds__(32 * kWarps) attend(Arguments s) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, r = blockIdx.z, tiles = parts(s.batch().batch, kAttendTile);
  const int group = blockIdx.x / tiles, last = group / 2;
  const int first = s.first_G(r)[group] + blockIdx.x % tiles * kAttendTile, end = min(first + kAttendTile, s.first_G(r)[group + 1]);
  if (first >= end) return;
  MNEMO_SHARED(PatternSums, sums);
  const Column column(s, r, group);
  const int own = first + warp * kAttendCells;

  float total[kAttendCells] = {};
  for (int half = 0; 32 * half <= last; ++half) {
    __syncthreads();  // nobody reads the last tables any more
    if (32 * half + 4 * warp <= last) sum_patterns(column, 32 * half + 4 * warp, last, sums[warp]);
    __syncthreads();
    std::uint32_t bits[kAttendCells];
#pragma unroll
    for (int c = 0; c < kAttendCells; ++c) {
      bits[c] = own + c < end ? static_cast<std::uint32_t>(s.bits(r, own + c)[half / 2] >> (half % 2 == 0 ? 32 : 0)) : 0;
    }
    const int quads = min(kQuads, (last - 32 * half) / 4 + 1);
    for (int quad = 0; quad < quads; ++quad) {
#pragma unroll
      for (int c = 0; c < kAttendCells; ++c) total[c] += sums[quad][bits[c] >> (28 - 4 * quad) & 15][lane];
    }
  }
  if (!column.exists()) return;
#pragma unroll
  for (int c = 0; c < kAttendCells; ++c) {
    if (own + c >= end) break;
    const auto row = s.row(r, own + c);
    if (column.gap) {
      float top;
      total[c] = attend_by_own_maximum(column, s.bits(r, own + c), last, top);
      if (!column.is_value) s.top[row * s.step.shape.heads + column.head] = top;
    }
    s.attended[row * s.columns() + column.index] = total[c];
  }
}

constexpr int kSpan = 16;  // positions a warp, and so bits of a word

/// Adds d[num | z] of a group's cells to sums[position][bit], by the bits of kSpan positions from `first` on.
__device__ inline void scatter_cells(const Arguments& s, int r, int group, const Column& column, int first, float (&sums)[kSpan][2]) {
  const int lane = threadIdx.x % 32, begin = s.first_G(r)[group], end = s.first_G(r)[group + 1];
  for (int base = begin; base < end; base += 32) {
    const auto mine = base + lane < end ? static_cast<std::uint32_t>(s.bits(r, base + lane)[first / 64] >> (48 - first % 64)) : 0;
    for (int c = 0; c < min(32, end - base); ++c) {
      const std::uint32_t bits = __shfl_sync(kAllLanes, mine, c);
      const float d = column.exists() ? s.dattended[s.row(r, base + c) * s.columns() + column.index] : 0.F;
#pragma unroll
      for (int p = 0; p < kSpan; ++p) {
        if (bits >> (15 - p) & 1) {
          sums[p][1] += d;
        } else {
          sums[p][0] += d;
        }
      }
    }
  }
}

/// sum over a group's cells with `bit` at `position` of weight times d[num | z], with weights as in attend_by_own_maximum.
__device__ inline float scatter_by_own_maximum(const Arguments& s, int r, int group, const Column& column, int position, int bit) {
  float sum = 0;
  for (int cell = s.first_G(r)[group]; cell < s.first_G(r)[group + 1]; ++cell) {
    const auto row = s.row(r, cell);
    if (bit_at(s.bits(r, cell), position) != bit) continue;
    sum += expf(column.G[2 * position + bit] - s.top[row * s.step.shape.heads + column.head]) * s.dattended[row * s.columns() + column.index];
  }
  return sum;
}

/// dproduct of a group: sum over its cells of weight times d[num | z], for each token. Grid (groups, parts of A, R).
__global__ void __launch_bounds__(32 * kWarps) scatter(Arguments s) {
  const int r = blockIdx.z, group = blockIdx.x, last = group / 2;
  const bool empty = s.first_G(r)[group] == s.first_G(r)[group + 1];
  const Column column(s, r, group);
  for (int first = threadIdx.x / 32 * kSpan; first <= last; first += kWarps * kSpan) {
    float sums[kSpan][2] = {};
    scatter_cells(s, r, group, column, first, sums);
    if (!column.exists()) continue;
    float* const to = s.dproduct + (s.product_row(r, group) + 2 * first) * s.columns() + column.index;
#pragma unroll
    for (int i = 0; i < 2 * kSpan; ++i) {
      const int token = 2 * first + i;
      if (token > 2 * last + 1) break;
      to[static_cast<std::size_t>(i) * s.columns()] = empty ? 0.F : column.E[token] * sums[i / 2][i % 2];
    }
    if (!empty && column.gap) {
      for (int token = 2 * first; token < 2 * min(first + kSpan, last + 1); ++token) {
        to[static_cast<std::size_t>(token - 2 * first) * s.columns()] = scatter_by_own_maximum(s, r, group, column, token / 2, token % 2);
      }
    }
  }
}

/// dG / sqrt(F) of a group's row: sum over the head of dproduct V, and the part of z. Grid (groups, R).
__global__ void __launch_bounds__(256) score_gradients(Arguments s) {
  const int r = blockIdx.y, group = blockIdx.x, C = s.C(), H = s.step.shape.heads, F = s.step.shape.head_dim, A = s.columns();
  const bool empty = s.first_G(r)[group] == s.first_G(r)[group + 1];
  const float scale = 1 / sqrtf(static_cast<float>(F));
  for (int i = threadIdx.x; i < (group / 2 * 2 + 2) * H; i += blockDim.x) {
    const int token = i / H, head = i % H;
    float sum = 0;
    if (!empty) {
      const float* const product = s.dproduct + (s.product_row(r, group) + token) * A;
      const float* const V = s.qkv + s.token_row(r, token) * 3 * C + 2 * C;
      sum = product[C + head];
      for (int f = head * F; f < (head + 1) * F; ++f) sum += product[f] * V[f];
    }
    s.score[s.score_row(r, head, group) + token] = sum * scale;
  }
}

/// What a warp adds to dq, dk or dv (`part`) of a column: every kWarps-th of the rows or groups that a token meets.
///   dq = dG k,  dk = dG^T q,  dv = sum of dproduct
__device__ inline float token_gradient(const Arguments& s, int r, int token, int part, int c) {
  const int C = s.C(), tokens = s.tokens(), past = token / 2 * 2, warp = threadIdx.x / 32;
  const std::size_t stride = 3 * C;
  const float *const q = s.qkv + s.token_row(r, 0) * stride + c, *const k = q + C;
  const float* const dG = s.score + s.score_row(r, c / s.step.shape.head_dim, 0);
  float sum = 0;
  if (part == 0) {
    for (int other = warp; other < past + 2; other += kWarps) sum += dG[static_cast<std::size_t>(token) * tokens + other] * k[other * stride];
  } else if (part == 1) {
    for (int group = past + warp; group < tokens; group += kWarps) sum += dG[static_cast<std::size_t>(group) * tokens + token] * q[group * stride];
  } else {
    for (int group = past + warp; group < tokens; group += kWarps) sum += s.dproduct[(s.product_row(r, group) + token) * s.columns() + c];
  }
  return sum;
}

/// dq, dk and dv of a token, 32 columns a block. Grid (tokens, 3 x parts of C, R).
__global__ void __launch_bounds__(32 * kWarps) token_gradients(Arguments s) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, slices = parts(s.C(), 32);
  const int token = blockIdx.x, part = blockIdx.y / slices, c = blockIdx.y % slices * 32 + lane, r = blockIdx.z;
  MNEMO_SHARED(float[kWarps][32], sums);
  float sum = c < s.C() && s.cells(r) > 0 ? token_gradient(s, r, token, part, c) : 0.F;
  sums[warp][lane] = sum;
  __syncthreads();
  if (warp > 0 || c >= s.C()) return;
  for (int w = 1; w < kWarps; ++w) sum += sums[w][lane];
  s.dqkv[(s.token_row(r, token) * 3 + part) * s.C() + c] = sum;
}

/// d c_attn.weight = dqkv^T x. Grid (tiles of 3C, tiles of C, R).
struct ProjectionGradient {
  static constexpr bool kAAlongDepth = false, kBAlongDepth = false, kRowSums = true, kAddends = false;
  GemmTile tile;
  int C;
  TokenInputs inputs;
  const float* dqkv;
  float *to, *bias;

  __device__ ProjectionGradient(const Arguments& s, int, const GemmSquare& at) : C(s.C()), inputs(s, static_cast<int>(blockIdx.z), 0, at.column()) {
    const int r = static_cast<int>(blockIdx.z), row = at.row();
    tile = {3 * C - row, C - at.column(), s.cells(r) > 0 ? s.tokens() : 0};
    dqkv = s.dqkv + s.token_row(r, 0) * 3 * C + row;
    to = s.gradient(r, s.step.offsets.c_attn_weight) + row * C + at.column(), bias = s.gradient(r, s.step.offsets.c_attn_bias) + row;
  }
  __device__ float a(int row, int token) const { return dqkv[token * 3 * C + row]; }
  __device__ float b(int token, int column) const { return inputs.at(token, column); }
  __device__ void out(int row, int column, float sum) const { to[row * C + column] = sum; }
  __device__ void out_row_sum(int row, float sum) const { bias[row] = sum; }
};

/// dx = dqkv W. Grid (tiles of 2P, tiles of C, R).
struct InputGradient {
  static constexpr bool kAAlongDepth = true, kBAlongDepth = false, kRowSums = false, kAddends = false;
  GemmTile tile;
  int C;
  const float *dqkv, *weight;
  float* to;

  __device__ InputGradient(const Arguments& s, int, const GemmSquare& at) : C(s.C()) {
    const int r = static_cast<int>(blockIdx.z), row = at.row(), column = at.column();
    tile = {s.tokens() - row, C - column, s.cells(r) > 0 ? 3 * C : 0};
    dqkv = s.dqkv + s.token_row(r, row) * 3 * C, weight = s.parameter(r, s.step.offsets.c_attn_weight) + column;
    to = s.dinput + s.token_row(r, row) * C + column;
  }
  __device__ float a(int token, int k) const { return dqkv[token * 3 * C + k]; }
  __device__ float b(int k, int column) const { return weight[k * C + column]; }
  __device__ void out(int token, int column, float sum) const { to[token * C + column] = sum; }
};

/// d wpe[j] = dx of both bits, 0 for the last position; d wte[bit] = sum over positions. Grid (L + 2, parts of C, R).
__global__ void __launch_bounds__(128) embedding_gradients(Arguments s) {
  const int place = blockIdx.x, c = blockIdx.y * blockDim.x + threadIdx.x, r = blockIdx.z, C = s.C(), L = s.batch().length, P = s.batch().positions();
  if (c >= C) return;
  const float* const dx = s.dinput + s.token_row(r, 0) * C + c;
  const auto at = [&](int token) { return dx[static_cast<std::size_t>(token) * C]; };
  if (place < L) {
    s.gradient(r, s.step.offsets.wpe)[static_cast<std::size_t>(place) * C + c] = place < P ? at(2 * place) + at(2 * place + 1) : 0.F;
  } else {
    const int bit = place - L;
    float sum = 0;
    for (int i = 0; i < P; ++i) sum += at(2 * i + bit);
    s.gradient(r, s.step.offsets.wte)[bit * C + c] = sum;
  }
}

}  // namespace mnemo::one_layer
