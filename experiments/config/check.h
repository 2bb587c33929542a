#pragma once

#include "experiments/config/config.h"

namespace mnemo {

/// Adds to `source` what is wrong with a resolved configuration beyond its single fields: all of it, each at the setting that a user would change.
/// `with_weights`: also reads the files of weights that events name.
void check(ConfigSource& source, const RunConfig& config, bool with_weights);

}  // namespace mnemo
