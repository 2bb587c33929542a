#pragma once

#include "experiments/config.h"

#include <cstdint>
#include <filesystem>
#include <optional>
#include <vector>

namespace mnemo {

/// Accuracy of one phase's most frequent sequences over a run, read from its directory.
struct PhaseSummary {
  double at_begin, at_switch, at_end;      ///< first row; last row before the next switch; last row
  double ceiling;                          ///< Bayes, same ranks
  std::optional<std::int64_t> learned_after;  ///< steps since the phase began until chance + .9 (ceiling - chance) was reached
};

/// Ranks below `top` of every phase. Throws Error{data} or Error{io} where the directory is not whole.
std::vector<PhaseSummary> summarize(const std::filesystem::path& run_directory, const RunConfig& config, std::int64_t top);

/// What was learned, against the ceiling, to standard output.
void print_summary(const std::filesystem::path& run_directory, const RunConfig& config);

}  // namespace mnemo
