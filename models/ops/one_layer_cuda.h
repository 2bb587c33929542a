#pragma once

#include "core/device_cells.h"

#include <cstddef>

namespace mnemo {

/// Sizes of a one-layer attention transformer (MATHS 2) on a GPU: C = heads * head_dim, MLP width D.
struct OneLayerCudaShape {
  enum class Squares : std::uint8_t { by_size, small, large };  ///< of the products of the MLP (models/ops/cuda_gemm.cuh)

  int heads, head_dim, mlp_width, mlp_layers;
  /// One kernel for all that follows attention, where it can be: C = D <= 64 and at most 4 layers. The same numbers up to rounding.
  bool fuse = true;
  Squares squares = Squares::by_size;  ///< the same bits with either

  MNEMO_HOST_DEVICE int width() const { return heads * head_dim; }  ///< C
};

constexpr int kMaxMlpLayers = 8;

/// Where the tensors begin in a replica's row of the flat buffers, counted in floats. PyTorch layout: c_attn [3C, C], the first MLP layer [D, C], the
/// others [D, D], the head [2, D].
struct OneLayerOffsets {
  std::size_t wte, wpe, c_attn_weight, c_attn_bias, ln_weight, ln_bias;
  std::size_t mlp_weight[kMaxMlpLayers], mlp_bias[kMaxMlpLayers];
  std::size_t head_weight, head_bias;
};

/// A training step of R replicas on a GPU: the numbers of the plain composition and its autograd up to rounding, by the shortcuts of OneLayerStep
/// (MATHS 2.1, 2.2), all in one stream. No result depends on the capacity of the batch, on R or on the order of threads. A replica without cells has
/// loss, accuracy and gradient 0, whatever its weights are. Cells predict from bit 1 on. All pointers are device memory.
struct OneLayerCudaStep {
  OneLayerCudaShape shape;
  DeviceCells cells;
  OneLayerOffsets offsets;
  std::size_t row_size;  ///< floats between the rows of two replicas
  const float* parameters_RP;
  float* gradient_RP;  ///< every element of every tensor is written
  void* work;          ///< one_layer_cuda_work() bytes, aligned to 16
  double* loss_R;      ///< weighted mean over predictions, nats
  double* accuracy_R;  ///< weighted share of right predictions, a logit of 0 counts half
  bool tf32;           ///< products of the MLP in tf32; everything else is float32 always
};

/// Bytes of work space. Throws std::invalid_argument for sizes that no launch takes: below 1, more than kMaxMlpLayers, cells that do not predict from
/// bit 1 on, R * H > 65535.
std::size_t one_layer_cuda_work(const OneLayerCudaShape& shape, const DeviceBatchShape& batch);

/// Queues loss, accuracy and gradient. Throws as above.
void one_layer_gradient_cuda(const OneLayerCudaStep& step, void* stream);

/// Queues the forward half: logits [R, N] of P(next bit = 1), in the order of the cells; what lies past a replica's cells is not written. Neither
/// `gradient_RP` nor `loss_R` and `accuracy_R` are used.
void one_layer_logits_cuda(const OneLayerCudaStep& step, float* logits_RN, void* stream);

}  // namespace mnemo
