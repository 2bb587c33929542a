#pragma once

#include "core/sequences.h"

#include <cstdint>
#include <span>
#include <vector>

namespace mnemo {

/// What a forward pass has to compute for a set of sequences (MATHS 2.2).
///
/// A *cell* is a pair (row, position) whose prediction is needed: position c predicts bit c + first_predicted_bit of the row from the bits before
/// it, c = 0..P-1, P = L - first_predicted_bit (1, or 0 for a model that predicts the first bit too). Rows that share a prefix share every
/// activation of it (causality), so each distinct prefix has one cell, at the first row (in lexicographic order) that starts with it. A cell
/// carries two loss weights: the probability mass of batch rows that go on with 0 and with 1. All weights sum to 1, so that
///   loss = sum over cells of w_0 BCE(z, 0) + w_1 BCE(z, 1)
/// is the mean over the batch of the mean over the P predictions. Only the order of summation differs.
struct Cells {
  std::int64_t length = 0;                  ///< L
  std::int64_t first_predicted_bit = 1;     ///< the first predicted bit
  std::vector<std::int32_t> ranks;          ///< (U) rows: distinct sequences in lexicographic order
  std::vector<double> row_weight;           ///< (U) their shares of the batch
  std::vector<std::int32_t> row, position;  ///< (N) cells, by row, then position
  std::vector<double> weight;               ///< (N, 2)
  std::vector<std::int32_t> cell_of;        ///< (U, P) which cell makes a prediction of a row

  std::int64_t num_rows() const { return static_cast<std::int64_t>(ranks.size()); }
  std::int64_t num_cells() const { return static_cast<std::int64_t>(row.size()); }
  std::int64_t num_positions() const { return length - first_predicted_bit; }  ///< P
};

/// How much of the work that sequences share is done once.
enum class Sharing {
  none,      ///< every drawn row, every position: the plain form
  prefixes,  ///< distinct rows, distinct prefixes
};

/// The cells of a batch of drawn ranks (with repeats); each draw has weight 1/B.
Cells cells_of_batch(const SequenceTable& table, std::span<const std::int32_t> drawn, Sharing sharing = Sharing::prefixes,
                     std::int64_t first_predicted_bit = 1);

/// The cells of given rows, distinct and in lexicographic order; `row_weight` holds their shares, as of a batch.
Cells cells_of_rows(const SequenceTable& table, std::vector<std::int32_t> distinct, std::span<const double> row_weight,
                    Sharing sharing = Sharing::prefixes, std::int64_t first_predicted_bit = 1);

}  // namespace mnemo
