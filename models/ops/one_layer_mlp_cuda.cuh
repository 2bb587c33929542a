#pragma once

// What follows attention, forward and backward, over the cells: kernels of models/ops/one_layer_cuda.cu. Sums over cells are made in parts of fixed
// size, which merge_partials adds in order.

#include "core/loss_math.h"
#include "models/ops/cuda_gemm.cuh"
#include "models/ops/one_layer_attention_cuda.cuh"
#include "models/ops/one_layer_cuda_arguments.h"

namespace mnemo::one_layer {

constexpr float kEpsilon = 1e-5F;

/// By a warp: o = num / z of a cell in place, its moments, and LayerNorm of it to out(column, value).
template <class Out>
__device__ inline void normalise_cell(const Arguments& s, int r, int cell, const Out& out) {
  const int lane = threadIdx.x % 32, C = s.C(), F = s.step.shape.head_dim;
  const auto row = s.row(r, cell);
  float* const o = s.attended + row * s.columns();
  const float *const gain = s.parameter(r, s.step.offsets.ln_weight), *const shift = s.parameter(r, s.step.offsets.ln_bias);
  float sum = 0, squares = 0;
  for (int c = lane; c < C; c += 32) sum += o[c] /= o[C + c / F];
  const float mean = warp_sum(sum) / static_cast<float>(C);
  for (int c = lane; c < C; c += 32) squares += (o[c] - mean) * (o[c] - mean);
  const float inverse = 1 / sqrtf(warp_sum(squares) / static_cast<float>(C) + kEpsilon);
  for (int c = lane; c < C; c += 32) out(c, (o[c] - mean) * inverse * gain[c] + shift[c]);
  if (lane == 0) s.moments[2 * row] = mean, s.moments[2 * row + 1] = inverse;
}

/// By a warp: d[num | z] of a cell from dh(column), the gradient by LayerNorm's output y gain + shift, y = (o - mean) / deviation: with g = dh gain
///   do = (g - mean(g) - y mean(g y)) / deviation,  dnum = do / z,  dz = -(do . o) / z of a head
template <class Dh>
__device__ inline void normalise_cell_backward(const Arguments& s, int r, int cell, const Dh& dh) {
  const int lane = threadIdx.x % 32, C = s.C(), F = s.step.shape.head_dim;
  const auto row = s.row(r, cell);
  const float* const o = s.attended + row * s.columns();
  const float* const gain = s.parameter(r, s.step.offsets.ln_weight);
  const float mean = s.moments[2 * row], inverse = s.moments[2 * row + 1];
  float* const to = s.dattended + row * s.columns();
  float sum = 0, product = 0;
  for (int c = lane; c < C; c += 32) {
    const float g = dh(c) * gain[c];
    sum += g, product += g * ((o[c] - mean) * inverse);
  }
  sum = warp_sum(sum) / static_cast<float>(C), product = warp_sum(product) / static_cast<float>(C);
  for (int c = lane; c < C; c += 32) to[c] = (dh(c) * gain[c] - sum - (o[c] - mean) * inverse * product) * inverse / o[C + c / F];
  __syncwarp();
  for (int head = lane; head < s.step.shape.heads; head += 32) {
    float dz = 0;
    for (int c = head * F; c < (head + 1) * F; ++c) dz -= to[c] * o[c];
    to[C + head] = dz;
  }
}

/// LayerNorm of attention's output, a warp a cell. Grid (parts of N, R).
__global__ void __launch_bounds__(32 * kWarps) normalise(Arguments s) {
  const int r = blockIdx.y, cell = blockIdx.x * kWarps + threadIdx.x / 32;
  if (cell >= s.cells(r)) return;
  float* const to = s.normalised + s.row(r, cell) * s.C();
  normalise_cell(s, r, cell, [&](int c, float value) { to[c] = value; });
}

/// max(x, 0), NaN kept.
__device__ inline float relu(float x) { return x > 0 || x != x ? x : 0.F; }

/// h_{j-1} of a layer: its input, [R, N, inputs].
__device__ inline const float* below(const Arguments& s, int layer) { return layer == 0 ? s.normalised : s.hidden[layer - 1]; }

/// h_j = relu(W_j h_{j-1} + b_j) + h_{j-1}, the last term from layer 1 on; h_{-1} is LayerNorm's output. Grid (tiles of N, tiles of D, R).
struct Layer {
  static constexpr bool kAAlongDepth = true, kBAlongDepth = true, kRowSums = false, kAddends = true;
  GemmTile tile;
  int inputs, D;
  const float *x, *residual, *weight, *bias;
  float* to;
  std::uint8_t* live;

  __device__ Layer(const Arguments& s, int layer, const GemmSquare& at) : inputs(s.inputs(layer)), D(s.D()) {
    const int r = static_cast<int>(blockIdx.z), column = at.column();
    const auto row = s.row(r, at.row());
    tile = {s.cells(r) - at.row(), D - column, inputs};
    x = below(s, layer) + row * inputs, residual = layer == 0 ? nullptr : x + column;
    weight = s.parameter(r, s.step.offsets.mlp_weight[layer]) + column * inputs, bias = s.parameter(r, s.step.offsets.mlp_bias[layer]) + column;
    to = s.hidden[layer] + row * D + column, live = s.live[layer] + row * D + column;
  }
  __device__ float a(int cell, int k) const { return x[cell * inputs + k]; }
  __device__ float b(int k, int column) const { return weight[column * inputs + k]; }
  __device__ float addend(int cell, int column) const { return residual != nullptr ? residual[cell * D + column] : 0.F; }
  __device__ void out(int cell, int column, float sum, float below) const {
    const int at = cell * D + column;
    const float argument = sum + bias[column];
    live[at] = argument > 0;
    to[at] = relu(argument) + below;
  }
};

/// Gradient by a layer's argument: dh where relu passed; from a cell and a unit on.
struct ArgumentGradient {
  const float* dh;
  const std::uint8_t* live;
  int D;

  __device__ ArgumentGradient(const Arguments& s, int layer, int cell, int unit) : D(s.D()) {
    const auto first = s.row(static_cast<int>(blockIdx.z), cell) * D + unit;
    dh = s.dhidden[layer % 2] + first, live = s.live[layer] + first;
  }
  __device__ float at(int cell, int unit) const {
    const float slope = dh[cell * D + unit];  // asked for together with the other
    return live[cell * D + unit] ? slope : 0.F;
  }
};

/// dh_{j-1} = da_j W_j + dh_j, the last term down to layer 1. Grid (tiles of N, tiles of inputs, R).
struct LayerInputGradient {
  static constexpr bool kAAlongDepth = true, kBAlongDepth = false, kRowSums = false, kAddends = true;
  GemmTile tile;
  int inputs;
  ArgumentGradient argument;
  const float *weight, *residual;
  float* to;

  __device__ LayerInputGradient(const Arguments& s, int layer, const GemmSquare& at) : inputs(s.inputs(layer)), argument(s, layer, at.row(), 0) {
    const int r = static_cast<int>(blockIdx.z), row = at.row(), column = at.column();
    tile = {s.cells(r) - row, inputs - column, s.D()};
    weight = s.parameter(r, s.step.offsets.mlp_weight[layer]) + column;
    residual = layer == 0 ? nullptr : argument.dh + column;
    to = s.dhidden[(layer + 1) % 2] + s.row(r, row) * inputs + column;
  }
  __device__ float a(int cell, int unit) const { return argument.at(cell, unit); }
  __device__ float b(int unit, int column) const { return weight[unit * inputs + column]; }
  __device__ float addend(int cell, int column) const { return residual != nullptr ? residual[cell * inputs + column] : 0.F; }
  __device__ void out(int cell, int column, float sum, float above) const { to[cell * inputs + column] = sum + above; }
};

/// A part of dW_j = da_j^T h_{j-1} and of db_j. Grid (tiles of D x chunks of N, tiles of inputs, R).
struct LayerWeightGradient {
  static constexpr bool kAAlongDepth = false, kBAlongDepth = false, kRowSums = true, kAddends = false;
  GemmTile tile;
  int inputs;
  ArgumentGradient argument;
  const float* x;
  float *to, *bias;

  __device__ LayerWeightGradient(const Arguments& s, int layer, const GemmSquare& at)
      : LayerWeightGradient(s, layer, at.x / parts(s.D(), at.side), at.x % parts(s.D(), at.side) * at.side, at.column()) {}
  __device__ LayerWeightGradient(const Arguments& s, int layer, int chunk, int unit, int column)
      : inputs(s.inputs(layer)), argument(s, layer, chunk * s.chunk(layer), unit) {
    const int r = static_cast<int>(blockIdx.z), first = chunk * s.chunk(layer), cells = min(s.chunk(layer), s.cells(r) - first);
    tile = {cells > 0 ? s.D() - unit : 0, inputs - column, cells};
    x = below(s, layer) + s.row(r, first) * inputs + column;
    float* const part = s.mlp_partial[layer] + (static_cast<std::size_t>(r) * s.chunks(layer) + chunk) * s.layer_size(layer);
    to = part + unit * inputs + column, bias = part + s.D() * inputs + unit;
  }
  __device__ float a(int unit, int cell) const { return argument.at(cell, unit); }
  __device__ float b(int cell, int column) const { return x[cell * inputs + column]; }
  __device__ void out(int unit, int column, float sum) const { to[unit * inputs + column] = sum; }
  __device__ void out_row_sum(int unit, float sum) const { bias[unit] = sum; }
};

/// lm_head as one row: w = w_1 - w_0 and b = b_1 - b_0.
struct Head {
  const float *weight, *bias;
  int D;

  __device__ Head(const Arguments& s, int r)
      : weight(s.parameter(r, s.step.offsets.head_weight)), bias(s.parameter(r, s.step.offsets.head_bias)), D(s.D()) {}
  __device__ float w(int d) const { return weight[D + d] - weight[d]; }
  __device__ float b() const { return bias[1] - bias[0]; }
};

/// What becomes of the logits of a block's cells.
struct CellLosses {
  float slope[kCellsABlock], loss[kCellsABlock], right[kCellsABlock];
};

/// Writes a cell's logit, if they are wanted, or else its part of loss and accuracy.
__device__ inline void judge(const Arguments& s, int r, int first, int c, float z, CellLosses& of) {
  const auto row = s.row(r, first + c);
  if (s.logits != nullptr) {
    s.logits[row] = z;
    return;
  }
  const float draws = static_cast<float>(s.batch().batch) * static_cast<float>(s.batch().positions());
  const auto* const mass = s.step.cells.mass_RN2 + 2 * row;
  const float zero = static_cast<float>(mass[0]) / draws, one = static_cast<float>(mass[1]) / draws;
  const Bce<float> bce(z);
  of.slope[c] = bce.slope(zero, one), of.loss[c] = bce.loss(zero, one), of.right[c] = bce.right(zero, one);
}

/// Loss and accuracy of a block's `count` cells, by a warp.
__device__ inline void sum_losses(const Arguments& s, std::size_t block, int count, const CellLosses& of) {
  double loss = 0, right = 0;
  for (int c = threadIdx.x % 32; c < count; c += 32) loss += of.loss[c], right += of.right[c];
  loss = warp_sum(loss), right = warp_sum(right);
  if (threadIdx.x % 32 == 0) s.loss_partial[2 * block] = loss, s.loss_partial[2 * block + 1] = right;
}

/// Logits z = w . h + b, and unless they alone are wanted loss, accuracy, the gradient by h, and a block's part of that by w and b. Grid (parts of N,
/// R).
__global__ void __launch_bounds__(32 * kWarps) head(Arguments s) {
  const int lane = threadIdx.x % 32, r = blockIdx.y, D = s.D(), layers = s.step.shape.mlp_layers;
  const int first = blockIdx.x * kCellsABlock, count = min(kCellsABlock, s.cells(r) - first);
  if (count <= 0) return;
  MNEMO_SHARED(CellLosses, of);
  const Head lm(s, r);
  const float* const h = s.hidden[layers - 1] + s.row(r, first) * D;
  for (int c = threadIdx.x / 32; c < count; c += kWarps) {
    float sum = 0;
    for (int d = lane; d < D; d += 32) sum += lm.w(d) * h[static_cast<std::size_t>(c) * D + d];
    sum = warp_sum(sum);
    if (lane == 0) judge(s, r, first, c, sum + lm.b(), of);
  }
  if (s.logits != nullptr) return;
  __syncthreads();
  const auto block = static_cast<std::size_t>(r) * s.cell_blocks() + blockIdx.x;
  float* const dh = s.dhidden[(layers - 1) % 2] + s.row(r, first) * D;
  for (int d = threadIdx.x; d <= D; d += blockDim.x) {  // the last is the bias
    const float w = d < D ? lm.w(d) : 0.F;
    float sum = 0;
    for (int c = 0; c < count; ++c) {
      const auto at = static_cast<std::size_t>(c) * D + d;
      sum += d < D ? of.slope[c] * h[at] : of.slope[c];
      if (d < D) dh[at] = of.slope[c] * w;
    }
    s.head_partial[block * (D + 1) + d] = sum;
  }
  if (threadIdx.x < 32) sum_losses(s, block, count, of);
}

/// LayerNorm's backward for a block's cells, and its part of the gradients by gain and shift. Grid (parts of N, R).
__global__ void __launch_bounds__(32 * kWarps) normalise_backward(Arguments s) {
  const int r = blockIdx.y, first = blockIdx.x * kCellsABlock, count = min(kCellsABlock, s.cells(r) - first), C = s.C();
  if (count <= 0) return;
  for (int c = threadIdx.x / 32; c < count; c += kWarps) {
    const float* const dh = s.dhidden[1] + s.row(r, first + c) * C;
    normalise_cell_backward(s, r, first + c, [&](int column) { return dh[column]; });
  }
  float* const to = s.norm_partial + (static_cast<std::size_t>(r) * s.cell_blocks() + blockIdx.x) * 2 * C;
  for (int c = threadIdx.x; c < C; c += blockDim.x) {
    float gain = 0, shift = 0;
    for (int i = 0; i < count; ++i) {
      const auto row = s.row(r, first + i);
      const float dh = s.dhidden[1][row * C + c];
      gain += dh * ((s.attended[row * s.columns() + c] - s.moments[2 * row]) * s.moments[2 * row + 1]), shift += dh;
    }
    to[c] = gain, to[C + c] = shift;
  }
}

/// Sums of the parts of a tensor's gradient: element e of part p at from[p * size + e].
struct Partials {
  const float* from;
  std::size_t size;
  int parts;
};

/// Part 0 .. layers - 1: weight and bias of that layer; layers: those of LayerNorm; layers + 1: those of the head.
__device__ inline Partials partials_of(const Arguments& s, int r, int which) {
  const int layers = s.step.shape.mlp_layers, cells = s.cells(r), blocks = parts(cells, kCellsABlock);
  if (which < layers) {
    const auto size = s.layer_size(which);
    return {s.mlp_partial[which] + static_cast<std::size_t>(r) * s.chunks(which) * size, size, parts(cells, s.chunk(which))};
  }
  const auto size = static_cast<std::size_t>(which == layers ? 2 * s.C() : s.D() + 1);
  return {(which == layers ? s.norm_partial : s.head_partial) + static_cast<std::size_t>(r) * s.cell_blocks() * size, size, blocks};
}

/// Writes element e of a gradient, as partials_of counts.
__device__ inline void write_gradient(const Arguments& s, int r, int which, std::size_t e, float sum) {
  const auto& at = s.step.offsets;
  const int layers = s.step.shape.mlp_layers;
  if (which < layers) {
    const auto weights = static_cast<std::size_t>(s.D()) * s.inputs(which);
    *(e < weights ? s.gradient(r, at.mlp_weight[which]) + e : s.gradient(r, at.mlp_bias[which]) + (e - weights)) = sum;
  } else if (which == layers) {
    const auto C = static_cast<std::size_t>(s.C());
    *(e < C ? s.gradient(r, at.ln_weight) + e : s.gradient(r, at.ln_bias) + (e - C)) = sum;
  } else {
    const auto D = static_cast<std::size_t>(s.D());
    float* const zero = e < D ? s.gradient(r, at.head_weight) + e : s.gradient(r, at.head_bias);
    zero[0] = -sum, zero[e < D ? D : 1] = sum;
  }
}

/// Gradients of the MLP, LayerNorm and the head from their parts, 32 elements a block; loss and accuracy. A thread adds every kWarps-th part.
/// Grid (parts of the largest, layers + 2, R).
__global__ void __launch_bounds__(32 * kWarps) merge_partials(Arguments s) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, which = blockIdx.y, r = blockIdx.z;
  const auto partials = partials_of(s, r, which);
  const std::size_t e = std::size_t{32} * blockIdx.x + lane;
  if (e - lane >= partials.size) return;
  MNEMO_SHARED(float[kWarps][32], sums);
  float sum = 0;
  for (int p = warp; p < partials.parts && e < partials.size; p += kWarps) sum += partials.from[p * partials.size + e];
  sums[warp][lane] = sum;
  __syncthreads();
  if (warp == 0 && e < partials.size) {
    for (int w = 1; w < kWarps; ++w) sum += sums[w][lane];
    write_gradient(s, r, which, e, sum);
  }
  if (which == s.step.shape.mlp_layers + 1 && blockIdx.x == 0 && warp == 1) {
    double loss = 0, right = 0;
    for (int p = lane; p < partials.parts; p += 32) {
      const auto block = static_cast<std::size_t>(r) * s.cell_blocks() + p;
      loss += s.loss_partial[2 * block], right += s.loss_partial[2 * block + 1];
    }
    loss = warp_sum(loss), right = warp_sum(right);
    if (lane == 0) s.step.loss_R[r] = loss, s.step.accuracy_R[r] = right;
  }
}

}  // namespace mnemo::one_layer
