#pragma once

// What the kernels of models/ops/one_layer_cuda share: sizes and work space. C++17.

#include "models/ops/one_layer_cuda.h"

#include <algorithm>
#include <cstdint>
#include <type_traits>

namespace mnemo::one_layer {

constexpr int kCellsABlock = 64;                   ///< of the head and of LayerNorm's backward: a block's partial sums
constexpr int kAttendTile = 64;                    ///< cells of a group that a block attends for
constexpr int kColumns = 32;                       ///< columns of num | z a block, one a lane
constexpr int kCellsATile = 64;                    ///< cells a partial sum of a weight gradient, for each tile that the gradient has
constexpr int kMostCellsAChunk = 4096;             ///< so that no block of a weight gradient outlasts the rest of its launch
constexpr int kFusedWidth = 64, kFusedLayers = 4;  ///< up to which one kernel does all that follows attention
constexpr int kFusedCells = 128;                   ///< a block of it: cells of a partial sum of a weight gradient
constexpr float kMaxGap = 65;                      ///< see BinaryAttention::kMaxGap

MNEMO_HOST_DEVICE inline int parts(int n, int size) { return (n + size - 1) / size; }

/// A token is a position i < P and a bit a: row 2 i + a of every table, and the group of cells with that last visible bit. A cell has A = C + H
/// columns while it is attended to: [num | z], later o in place of num, or their gradients.
struct Arguments {
  OneLayerCudaStep step;

  float *qkv, *dqkv;             ///< [R, 2P, 3C] tables of the tokens, and their gradients
  float *score, *weight;         ///< [R, H, 2P, 2P] G, later dG / sqrt(F); E = exp(G - row maximum), 0 for the other bit of the row's own position
  std::uint8_t* gap;             ///< [R, H, 2P] whether all that a cell of the group sees might underflow: it then takes its own maximum
  float* top;                    ///< [R, N, H] that maximum, of cells of such groups alone
  float *attended, *dattended;   ///< [R, N, A]
  float* moments;                ///< [R, N, 2] mean of o and 1 / sqrt(variance + epsilon)
  float* normalised;             ///< [R, N, C] output of LayerNorm
  float* hidden[kMaxMlpLayers];  ///< [R, N, D] h of each layer
  std::uint8_t* live[kMaxMlpLayers];   ///< [R, N, D] where relu passed
  float* dhidden[2];                   ///< [R, N, max(C, D)] gradient by h of a layer and of the one below, in turns; rows of D or C
  float* dproduct;                     ///< [R, 2P (P + 1), A] of each (group, token it sees): sum over its cells of weight times d[num | z]
  float* dinput;                       ///< [R, 2P, C]
  float* mlp_partial[kMaxMlpLayers];   ///< [R, chunks, D inputs + D]
  float *norm_partial, *head_partial;  ///< [R, blocks, 2C] and [R, blocks, D + 1]
  double* loss_partial;                ///< [R, blocks, 2]
  float* logits;                       ///< [R, N], or null

  MNEMO_HOST_DEVICE const DeviceBatchShape& batch() const { return step.cells.shape; }
  MNEMO_HOST_DEVICE int tokens() const { return batch().groups(); }
  MNEMO_HOST_DEVICE int C() const { return step.shape.width(); }
  MNEMO_HOST_DEVICE int D() const { return step.shape.mlp_width; }
  MNEMO_HOST_DEVICE int columns() const { return C() + step.shape.heads; }  ///< A
  MNEMO_HOST_DEVICE int inputs(int layer) const { return layer == 0 ? C() : D(); }
  MNEMO_HOST_DEVICE bool fused() const { return step.shape.fuse && C() == D() && C() <= kFusedWidth && step.shape.mlp_layers <= kFusedLayers; }
  MNEMO_HOST_DEVICE int cell_blocks() const { return parts(batch().capacity(), kCellsABlock); }

  /// Cells a partial sum of a layer's weight gradient: about as many blocks for any width; 32 bits hold places in a chunk.
  MNEMO_HOST_DEVICE int chunk(int layer) const {
    const auto smaller = [](std::int64_t a, std::int64_t b) { return a < b ? a : b; };
    const std::int64_t even = std::int64_t{kCellsATile} * parts(D(), 64) * parts(inputs(layer), 64), wide = D() > inputs(layer) ? D() : inputs(layer);
    const auto cells = fused() || even < kFusedCells ? kFusedCells : smaller(smaller(even, kMostCellsAChunk), (1 << 30) / wide);
    return static_cast<int>(smaller(cells, batch().capacity()));
  }
  MNEMO_HOST_DEVICE int chunks(int layer) const { return parts(batch().capacity(), chunk(layer)); }
  MNEMO_HOST_DEVICE std::size_t layer_size(int layer) const { return static_cast<std::size_t>(D()) * (inputs(layer) + 1); }

  // ---- of one replica
  MNEMO_HOST_DEVICE const float* parameter(int replica, std::size_t offset) const { return step.parameters_RP + replica * step.row_size + offset; }
  MNEMO_HOST_DEVICE float* gradient(int replica, std::size_t offset) const { return step.gradient_RP + replica * step.row_size + offset; }
  MNEMO_HOST_DEVICE const std::int32_t* first_G(int replica) const {
    return step.cells.first_RG + static_cast<std::size_t>(replica) * (batch().groups() + 1);
  }
  MNEMO_HOST_DEVICE int cells(int replica) const { return first_G(replica)[batch().groups()]; }
  /// Row of `cell` in arrays [R, N, ...].
  MNEMO_HOST_DEVICE std::size_t row(int replica, int cell) const { return static_cast<std::size_t>(replica) * batch().capacity() + cell; }
  /// Row of `token` in arrays [R, 2P, ...].
  MNEMO_HOST_DEVICE std::size_t token_row(int replica, int token) const { return static_cast<std::size_t>(replica) * tokens() + token; }
  /// Row (head, token) of `score`, `weight`.
  MNEMO_HOST_DEVICE std::size_t score_row(int replica, int head, int token) const {
    return ((static_cast<std::size_t>(replica) * step.shape.heads + head) * tokens() + token) * tokens();
  }
  /// First row of a group in `dproduct`: position j adds 2 (2 j + 2) rows.
  MNEMO_HOST_DEVICE std::size_t product_row(int replica, int group) const {
    const std::size_t P = batch().positions(), i = group / 2, bit = group % 2;
    return replica * 2 * P * (P + 1) + 2 * (i + bit) * (i + 1);
  }
  MNEMO_HOST_DEVICE const std::uint64_t* bits(int replica, int cell) const {
    const auto first = static_cast<std::size_t>(replica) * batch().batch;
    return step.cells.bits_RBW + (first + step.cells.row_RN[row(replica, cell)]) * batch().words();
  }
};

/// visit(piece, number of elements) for each piece of the work space, in the order in which they lie there.
template <class Visit>
void each_piece(Arguments& s, const Visit& visit) {
  const auto size = [](int n) { return static_cast<std::size_t>(n); };
  const std::size_t R = size(s.batch().replicas), N = size(s.batch().capacity()), P = size(s.batch().positions()), T = 2 * P;
  const std::size_t H = size(s.step.shape.heads), C = size(s.C()), D = size(s.D()), A = C + H, blocks = size(s.cell_blocks());
  visit(s.qkv, R * T * 3 * C);
  visit(s.dqkv, R * T * 3 * C);
  visit(s.score, R * H * T * T);
  visit(s.weight, R * H * T * T);
  visit(s.gap, R * H * T);
  visit(s.top, R * N * H);
  visit(s.attended, R * N * A);
  visit(s.dattended, R * N * A);
  visit(s.moments, R * N * 2);
  if (!s.fused()) {
    visit(s.normalised, R * N * C);
    for (auto& dhidden : s.dhidden) visit(dhidden, R * N * std::max(C, D));
    for (int layer = 0; layer < s.step.shape.mlp_layers; ++layer) {
      visit(s.hidden[layer], R * N * D);
      visit(s.live[layer], R * N * D);
    }
  }
  visit(s.dproduct, R * T * (P + 1) * A);
  visit(s.dinput, R * T * C);
  for (int layer = 0; layer < s.step.shape.mlp_layers; ++layer) visit(s.mlp_partial[layer], R * size(s.chunks(layer)) * s.layer_size(layer));
  visit(s.norm_partial, R * blocks * 2 * C);
  visit(s.head_partial, R * blocks * (D + 1));
  visit(s.loss_partial, R * blocks * 2);
}

/// Points the pieces into the work space, if there is one; returns its bytes. Each piece begins at a multiple of 256 and ends before one, so that a
/// test can guard what lies between.
inline std::size_t lay_out(Arguments& s) {
  std::size_t used = 0;
  each_piece(s, [&](auto*& piece, std::size_t count) {
    piece = s.step.work == nullptr ? nullptr : reinterpret_cast<std::decay_t<decltype(piece)>>(static_cast<unsigned char*>(s.step.work) + used);
    used += (count * sizeof *piece / 256 + 1) * 256;
  });
  return used;
}

}  // namespace mnemo::one_layer
