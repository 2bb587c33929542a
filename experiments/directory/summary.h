#pragma once

#include "experiments/directory/run_reader.h"

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace mnemo {

/// When something happened, as far as evaluations can tell: more than `after` and at most `by` steps after a phase began. Both are 0 if it was so
/// from the start.
struct StepInterval {
  std::int64_t after, by;

  bool operator==(const StepInterval&) const = default;
};

/// Accuracy of one phase's most frequent sequences over a run, read from its directory. Sequences that are never drawn are left out.
struct PhaseSummary {
  std::int64_t ranks, scored;           ///< below `top`; those of them that were evaluated
  double at_begin, at_switch, at_end;   ///< after the last event of the phase's first step; last row before the next switch; last row
  double chance, ceiling;               ///< of a model that knows nothing; Bayes, the ranks scored
  std::optional<StepInterval> learned;  ///< when chance + .9 (ceiling - chance) was reached

  bool can_learn() const { return ceiling > chance; }
};

/// Ranks below `top` of every phase. Throws Error{data} or Error{io} where the directory is not whole.
std::vector<PhaseSummary> summarize(const RunReader& run, std::int64_t top);

/// "2.7x to 4.5x faster than phase 0": every ratio that the two intervals allow. Empty where one of the two needs no steps.
std::string speed_text(const StepInterval& first, const StepInterval& later);

/// What was learned, against the ceiling: the last lines of a run. Empty where nothing was scored.
std::string summary_text(const RunReader& run);

}  // namespace mnemo
