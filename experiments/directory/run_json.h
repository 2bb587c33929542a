#pragma once

#include "experiments/config/config.h"

#include <string>

namespace mnemo {

/// run.json: config.yaml for programs. The settings of a resolved configuration as JSON, and what follows from them:
///   each event also has `step`, or `first`, `last` and `count` if it repeats; `parameters`, the names that its patterns match; `snapshot`,
///   the name that it gives ("often_{step}" if it repeats);
///   `facts` has `model` (ModelFacts), `chance` (loss and accuracy of a guess), `seeds` of data and model, and the number of `phases`.
/// A function of the configuration alone. Nothing in the engine reads it: config.yaml is the truth.
std::string run_json(const RunConfig& config);

}  // namespace mnemo
