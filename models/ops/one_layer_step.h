#pragma once

#include "core/batches.h"
#include "core/sequences.h"

#include <array>
#include <cstdint>
#include <memory>
#include <optional>

namespace mnemo {

/// Sizes of a one-layer attention transformer (MATHS 2): C = heads * head_dim, MLP width D, L bits.
struct OneLayerShape {
  std::int64_t heads, head_dim, mlp_width, mlp_layers, length;
};

/// Its tensors, or their gradients, in PyTorch layout.
template <class Real>
struct OneLayerTensors {
  Real *wte, *wpe;                            ///< [2, C], [L, C]
  Real *c_attn_weight, *c_attn_bias;          ///< [3C, C], [3C]
  Real *ln_weight, *ln_bias;                  ///< [C]
  std::array<Real*, 8> mlp_weight, mlp_bias;  ///< [D, C] or [D, D], [D]; the first mlp_layers of them
  Real *head_weight, *head_bias;              ///< [2, D], [2]
};

/// The training step of the one-layer transformer on the CPU: the same numbers as the plain composition and its
/// autograd up to rounding, by exact shortcuts (MATHS 2.1, 2.2). Attention runs over tables of the 2(L-1) distinct
/// tokens, the rest over distinct cells, position by position, forward and backward together, so that activations stay
/// in cache.
///
/// Compiled for x86-64-v3. Buffers are made once; nothing is allocated in the steady state.
template <class Real>
class OneLayerStep {
 public:
  struct Result {
    double loss;      ///< weighted mean over predictions, nats
    double accuracy;  ///< weighted share of right predictions, a logit of 0 counts half
  };

  /// Throws std::invalid_argument for sizes below 1, a length below 2, or more than 8 MLP layers. `skip_dead_units`:
  /// leave out hidden units that are 0 (the results are the same; only a measurement wants it off).
  explicit OneLayerStep(const OneLayerShape& shape, int threads = 1, bool skip_dead_units = true);
  ~OneLayerStep();

  /// Adds the gradient of the weighted loss of `cells`, rows of `table`, to `gradients`. Nothing, and `gradients`
  /// untouched, where an attention score lies too far below another for the tables (the guard of MATHS 2.1): the plain
  /// form must take this step.
  std::optional<Result> gradient(const OneLayerTensors<const Real>& weights, const OneLayerTensors<Real>& gradients, const Cells& cells,
                                 const SequenceTable& table);

  /// Logit of P(next bit = 1) of every cell, in the order of `cells`. False, as above, where the guard refuses.
  [[nodiscard]] bool logits(const OneLayerTensors<const Real>& weights, const Cells& cells, const SequenceTable& table, Real* out);

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace mnemo
