#pragma once

#include "core/sequences.h"

#include <span>
#include <utility>
#include <vector>

namespace mnemo {

/// What can be known without a model (MATHS 6): the Bayes predictor that knows the sequences and their probabilities,
///   P*(1 | prefix) = mass of matching sequences with next bit 1 / mass of matching sequences,
/// scored over the predictions of a row. Exact; equal sequences are merged first. Losses in nats. Or the predictor that names the whole sequence:
///   P*(sequence | prefix) = its mass / mass of matching sequences.
struct Theory {
  std::vector<double> loss;         ///< (K) floor of each rank
  std::vector<double> accuracy;     ///< (K) ceiling of each rank; a tie (|P - 1/2| < 1e-12) counts half
  double mean_loss = 0;             ///< p-weighted: no model can be below
  double mean_accuracy = 0;         ///< p-weighted: no model can be above
  double retrieval = 0;             ///< top-1 accuracy of naming an equally likely distinct sequence from the prefixes
  double entropy = 0;               ///< of the distinct sequences
  std::vector<double> by_position;  ///< (bins, P, 2) loss and accuracy at each prediction, means over the ranks of each bin

  double unweighted_accuracy() const;
  /// Mean ceiling (or floor) over ranks [begin, end).
  static double mean(const std::vector<double>& per_rank, std::int64_t begin, std::int64_t end);
};

/// Predictions are made at prefixes of first_predicted_bit .. L-1 bits: of the next bit, or of the sequence. `bins`: half-open ranges of ranks,
/// from 0 to K without a gap, that `by_position` is asked for.
Theory bayes(const SequenceTable& table, std::span<const double> probability, std::int64_t first_predicted_bit = 1, bool of_sequences = false,
             std::span<const std::pair<std::int64_t, std::int64_t>> bins = {}, const Poll& poll = {});

}  // namespace mnemo
