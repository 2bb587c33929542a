#pragma once

#include "core/batches.h"
#include "core/sequences.h"
#include "models/ops/dam_limits.h"

#include <cstdint>
#include <memory>
#include <span>

namespace mnemo {

/// What a dense associative memory computes (MATHS 4): H heads over L bits.
struct DamShape {
  std::int64_t heads, length;
  double eta;              ///< inverse temperature
  bool clamped = false;    ///< logits to +-kDamLogitLimit; else each loss is at most kDamMaxLoss
  bool retrieval = false;  ///< the loss is the cross-entropy of the true stored sequence, not of the next bit
};

/// Its tensors, or their gradients.
template <class Real>
struct DamTensors {
  Real *A_logits, *B_logits;  ///< [L, H, L], of which row n uses entries < n; [H, L]
};

/// A distinct stored sequence: packed bits as in SequenceTable::row(), and how many slots hold it.
struct StoredSequence {
  const std::uint64_t* bits;
  std::int64_t count;
};

/// The training step of a dense associative memory on the CPU, exact (MATHS 4):
///   A(n) = softmax of A_logits[n, h, i < n]     B = softmax of B_logits[h]
///   phi_hat_h = sum_{i<n} A_hi(n) zeta_i        q' = eta B^T phi_hat in R^L        s_mu = q'.chi_mu + ln count_mu
///   next bit:  logit = LSE(s; next bit 1) - LSE(s; next bit 0),    dq' = dlogit (E_1[chi] - E_0[chi]), E_c the softmax mean of chi in class c
///   retrieval: loss = LSE(s) - s_true,                             dq' = E[chi] - chi_true
/// One pass over the stored sequences for a tile of prefix cells: one exponential per score, whose sum and mean of chi are accumulated
/// together. Products with the +-1 keys are sums of pattern tables (selected_sums.h): L/5 additions a score each way in place of L. Memory:
/// O(stored rows) patterns and a tile; nothing grows with batch x length x memory.
///
/// Compiled for x86-64-v3.
template <class Real>
class DamRetrieval {
 public:
  struct Result {
    double loss, accuracy;  ///< weighted means over predictions; nats; share right (ties in equal parts)
  };

  /// Throws std::invalid_argument for sizes below 1.
  explicit DamRetrieval(const DamShape& shape, int threads = 1);
  ~DamRetrieval();

  /// Adds the gradient of the weighted loss of `cells`, rows of `table`, to `gradients`. `memory` must not be empty; for retrieval it is
  /// the table, rank by rank.
  Result gradient(const DamTensors<const Real>& weights, const DamTensors<Real>& gradients, std::span<const StoredSequence> memory,
                  const Cells& cells, const SequenceTable& table);
  /// Logits of P(next bit = 1) of the cells into `out` [N].
  void logits(const DamTensors<const Real>& weights, std::span<const StoredSequence> memory, const Cells& cells, const SequenceTable& table,
              Real* out);
  /// Retrieval: loss and accuracy of each row at each position into [U, P].
  void identify(const DamTensors<const Real>& weights, std::span<const StoredSequence> memory, const Cells& cells, const SequenceTable& table,
                Real* loss, Real* accuracy);

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

extern template class DamRetrieval<float>;
extern template class DamRetrieval<double>;

}  // namespace mnemo
