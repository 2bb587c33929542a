#pragma once

#include "core/adam_math.h"
#include "experiments/config/config.h"

#include <cstdint>
#include <optional>
#include <vector>

namespace mnemo {

/// Something that is due after an update.
struct Action {
  enum class Kind { log, evaluate, event };

  Kind kind;
  std::size_t event = 0;    ///< index in the configuration
  std::uint8_t moment = 0;  ///< 1: after an event of the same step that changed data or weights

  bool operator==(const Action&) const = default;
};

/// What is due after `step` updates, in order: the log line, the evaluation, the events in file order, and the evaluation once more where one of them
/// changes data or weights. Evaluations are due at multiples of eval.every, at the last step, at steps of such events, and at logarithmic distances
/// (eval.per_decade) from step 0 and from the last switch. A pure function: a checkpoint only says how many of them are done.
std::vector<Action> actions_after(std::int64_t step, const RunConfig& config);

/// Adam's settings for the run.
AdamScalars scalars_of(const TrainConfig& train);

/// The step of the log line at which train.stop_if decides.
std::optional<std::int64_t> decision_step(const TrainConfig& train);

/// Whether `distance` >= 1 is one of the steps round(10^(k / per_decade)), k = 0, 1, ...
bool is_log_spaced(std::int64_t distance, std::int64_t per_decade);
/// Evaluations that a run makes at most.
double num_evaluations(const RunConfig& config);

/// Phases that a run reaches: one more than its switches.
std::int64_t num_phases(const RunConfig& config);

}  // namespace mnemo
