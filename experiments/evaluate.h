#pragma once

#include "core/batches.h"
#include "core/sequences.h"
#include "models/model.h"

#include <functional>
#include <span>
#include <string>
#include <vector>

namespace mnemo {

/// Per sequence, in the order of the ranks asked for: means over the L-1 predictions.
struct Scores {
  std::vector<float> loss, accuracy;
};

/// Called between blocks of work; throws to stop it.
using Poll = std::function<void()>;

/// Scores the given ranks of a table with replica 0 of the model. Changes nothing: no weights, counters or draws. Sequences go through
/// the model sorted, in blocks, so that shared prefixes are computed once.
Scores score(Model& model, const SequenceTable& table, std::span<const std::int32_t> ranks, const Poll& poll = {},
             Sharing sharing = Sharing::prefixes);

/// Ranks 0, stride, 2 stride, ... below num_sequences.
std::vector<std::int32_t> strided_ranks(std::int64_t num_sequences, std::int64_t stride);

}  // namespace mnemo
