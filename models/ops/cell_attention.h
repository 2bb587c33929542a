#pragma once

#include <cstdint>

namespace mnemo {

/// Rows of a batch and the distinct cells that they hold (core/batches.h): U rows in lexicographic order, P positions, N cells by row, then position.
/// The cells that a row is the first to hold are its last ones; it shares those before with the row before. H heads of F, C = H F.
struct CellRows {
  std::int64_t rows, positions, heads, head_dim;
  const std::int64_t* first_cell;  ///< [U + 1] of each row's own cells, and N
  const std::int32_t* cell;        ///< [U, P]
  const std::int32_t* input;       ///< [U, P] the row of qkv that each position has; the same where a row shares its cell
};

/// Causal softmax attention of distinct cells (MATHS 2.2, 3), on the CPU: o_i = sum over j <= i of p_ij v_j, p_ij = softmax over j <= i of
/// q_i . k_j / sqrt(F), for the cells i of a row alone and the keys and values of all its positions, which are read where they lie. Row after row, so
/// that what two neighbours share stays in cache. qkv [M, 3C] holds q, k and v of M inputs, C each by head. The results do not depend on the number
/// of threads. Compiled for x86-64-v3.
///
/// Writes attended [N, C] and log_sum [N, H], the logarithm of the sum of exp(q . k / sqrt(F)).
template <class Real>
void attend_cells(const CellRows& rows, const Real* qkv_M3C, Real* attended_NC, Real* log_sum_NH, int threads);

/// From the gradient of attended [N, C] and what the forward pass wrote: that of qkv, by cell [N, 3C]; that of an input is the sum over its cells.
template <class Real>
void attend_cells_backward(const CellRows& rows, const Real* qkv_M3C, const Real* attended_NC, const Real* log_sum_NH, const Real* dattended_NC,
                           Real* dqkv_N3C, int threads);

}  // namespace mnemo
