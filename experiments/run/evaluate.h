#pragma once

#include "core/batches.h"
#include "core/poll.h"
#include "core/sequences.h"
#include "models/model.h"

#include <span>
#include <vector>

namespace mnemo {

/// Half-open bins of ranks: [0, 10), [10, 100), ... up to K.
using RankBin = std::pair<std::int64_t, std::int64_t>;
std::vector<RankBin> rank_bins(std::int64_t num_sequences);

/// What to compute besides loss and accuracy.
struct ScoreOptions {
  bool by_position = false;
  std::int64_t completion_prefix = 0;  ///< > 0: also whether greedy continuation of so many bits gives the sequence
  Sharing sharing = Sharing::prefixes;
};

/// Per sequence, in the order of the ranks asked for: means over its predictions.
struct Scores {
  std::vector<float> loss, accuracy;
  std::vector<float> loss_by_position, accuracy_by_position;  ///< (rank bins, L-1) means over the ranks of a bin; NaN if it has none
  std::vector<std::uint8_t> completed;                        ///< 1 or 0
};

double mean_of(std::span<const float> values);

/// Scores the given ranks of a table with replica 0 of the model. Changes nothing: no weights, counters or draws. Sequences go through
/// the model sorted, in blocks, so that shared prefixes are computed once.
/// Greedy continuation reproduces a sequence exactly if each of its bits is the more likely one after the bits before it: up to the first
/// miss the continuation *is* the sequence. So `completed` needs no generation, only the logits that loss and accuracy are made of.
Scores score(Model& model, const SequenceTable& table, std::span<const std::int32_t> ranks, const Poll& poll = {}, const ScoreOptions& options = {});

/// Ranks 0, stride, 2 stride, ... below num_sequences.
std::vector<std::int32_t> strided_ranks(std::int64_t num_sequences, std::int64_t stride);

}  // namespace mnemo
