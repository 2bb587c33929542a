#pragma once

#include "core/sequences.h"
#include "experiments/run/evaluate.h"
#include "models/model.h"

#include <span>
#include <string>
#include <vector>

namespace mnemo {

/// Spacing and number of the positions that are measured (NaN where a sequence is shorter).
inline constexpr std::int64_t kAttentionSpacing = 5, kAttentionPositions = 20;
inline constexpr std::int64_t kAveragedSequences = 3840, kKeptAttentionMaps = 256;

/// The shape of a measure of one evaluation, by the name it has in `eval.attention`: vertical_bars (H, 20, 20), decorrelation (20, H, H),
/// attn_reps (N, H, L, L) with N = min(num_ranks, 256); of a model whose facts say attention_by_layer an axis of layers comes first.
Shape attention_measure_shape(const std::string& name, const ModelFacts& model, std::int64_t length, std::int64_t num_ranks);

/// Attention measures (MATHS 2.3) of replica 0 over the first 3,840 of the given ranks, float32, in the order of `names`, layer after layer:
///   vertical_bars[h, i, j]: Pearson correlation between what positions s = 5i and t = 5j + 1 > s pay attention to among the keys < s;
///   decorrelation[i, g, h]: between what heads g and h of position t = 5i pay attention to among the keys < t;
///   attn_reps: the attention maps of the first 256.
/// Correlations are averages over the sequences where both rows vary; NaN where there is no such sequence.
/// Memory is that of a block of maps (16 MB) and of what is returned.
std::vector<std::vector<float>> measure_attention(const Model& model, const SequenceTable& table, std::span<const std::int32_t> ranks,
                                                  const std::vector<std::string>& names, const Poll& poll = {});

}  // namespace mnemo
