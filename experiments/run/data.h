#pragma once

#include "core/sequences.h"
#include "core/zipf.h"
#include "experiments/config/config.h"
#include "experiments/run/theory.h"

#include <cstdint>
#include <string>
#include <vector>

namespace mnemo {

/// The law by which a run draws ranks.
struct RankLaw {
  RankSampler sampler;
  /// The row of data.weights (and data.file) that each rank stands for: the largest weight first, equal ones in the order of rows. Empty without
  /// data.weights: rank = row. A run keeps it as data_rows.npy.
  std::vector<std::int64_t> rows;

  /// Hash of the law; empty without data.weights.
  std::string digest() const;
};

/// The law of a resolved configuration. Reads data.weights; throws Error{data} if they cannot be probabilities.
RankLaw rank_law(const RunConfig& config);

/// The sequences of a phase; `law` is that of the configuration. Reads data.file; throws Error{data} if it holds anything but 0 and 1.
SequenceTable table_of_phase(const RunConfig& config, const RankLaw& law, std::int64_t phase, const Poll& poll = {});

/// Throws Error{data} if the ranks of a run directory are not those that its configuration gives now.
void check_ranks(const std::filesystem::path& run_directory, const RunConfig& config, const RankLaw& law);

/// The Bayes predictor of what the configured model predicts.
Theory theory_of(const RunConfig& config, const SequenceTable& table, const RankSampler& sampler, const Poll& poll = {});

/// The sequences of a phase, and the best that can be predicted of them.
struct PhaseData {
  SequenceTable table;
  Theory theory;
};
PhaseData data_of_phase(const RunConfig& config, const RankLaw& law, std::int64_t phase, const Poll& poll = {});

/// What data_of_phase() depends on, but for the phase: runs of one key may share its results.
std::string data_key(const RunConfig& config);

}  // namespace mnemo
