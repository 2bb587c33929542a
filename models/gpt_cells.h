#pragma once

#include "core/batches.h"
#include "models/layers.h"
#include "models/ops/cell_attention.h"

#include <torch/types.h>

#include <cstdint>
#include <vector>

namespace mnemo {

/// The tensors of a gpt, or their gradients: of R replicas, [R, ...], or of one, without R.
struct GptTensors {
  struct Block {
    Affine ln_1, c_attn, attention_c_proj, ln_2, c_fc, mlp_c_proj;
  };
  torch::Tensor wte, wpe;  ///< wpe undefined: rotary positions
  std::vector<Block> blocks;
  Affine ln_f, lm_head;
};

/// A forward pass of a gpt over the distinct cells of one replica (MATHS 2.2, 3), on the CPU, and its derivative by hand. Rows that share a prefix
/// share every activation of it in every block, so that only attention sees rows (models/ops/cell_attention). The first block knows 2P inputs alone,
/// the tokens. Other work goes over groups of cells that stay in cache. The numbers are those of Gpt::logits() but for the order of sums. Shapes: U
/// rows, P = L-1 positions, T = U P, N cells, C width, H heads, M inputs of a block: 2P tokens in the first, then N.
class GptCells {
 public:
  /// The weights, without R, and the cells must outlive it. `keep`: gradient() will be called.
  GptCells(const GptTensors& weights, std::int64_t heads, const Cells& cells, const SequenceTable& table, bool keep);

  /// [N].
  torch::Tensor logits();
  /// Adds to the gradients of the weights those that follow from the gradient of the logits [N]. Once, after logits().
  void gradient(const torch::Tensor& dlogits_N, const GptTensors& gradient);

 private:
  /// What the backward pass of a block reads.
  struct Kept {
    torch::Tensor input_MC, qkv_M3C, attended_NC, log_sum_NH, middle_NC;
  };

  bool rotates() const { return !weights_.wpe.defined(); }
  /// Where attention finds the inputs of a block.
  CellRows rows_of(std::size_t layer) const;
  /// Turns the queries and keys of a block's inputs from `begin` on, the first two thirds of qkv [n, 3C], in place.
  void rotate(const torch::Tensor& qkv_n3C, std::size_t layer, std::int64_t begin, bool back) const;

  torch::Tensor queries_keys_values(std::size_t layer, const torch::Tensor& input_MC) const;
  void attend(std::size_t layer, Kept& kept) const;
  torch::Tensor after_attention(const GptTensors::Block& block, Kept& kept, const torch::Tensor& x_NC) const;

  // Backward. dx: the gradient of the residual stream after what is passed, which becomes that before it.
  torch::Tensor start(const torch::Tensor& dlogits_N, const GptTensors& gradient) const;
  torch::Tensor attended_gradient(const GptTensors::Block& block, const GptTensors::Block& gradient, const Kept& kept, torch::Tensor& dx_NC) const;
  torch::Tensor attention_gradient(std::size_t layer, const torch::Tensor& dattended_NC) const;
  void input_gradient(std::size_t layer, const GptTensors::Block& gradient, const torch::Tensor& dqkv_M3C, const torch::Tensor& dx_MC) const;

  const GptTensors& weights_;
  const Cells& cells_;
  std::int64_t heads_, width_, positions_;
  bool keep_;
  std::vector<std::int64_t> first_cell_;  // of each row, and N
  std::vector<std::int32_t> token_of_T_;  // 2 position + bit
  torch::Tensor token_of_N_;              // int64
  Rotation rotation_P_;                   // where positions are rotary, as are these:
  torch::Tensor position_of_token_, position_of_N_;
  std::vector<Kept> kept_;
  torch::Tensor last_NC_;  // the residual stream after all blocks
};

}  // namespace mnemo
