#pragma once

#include "core/log.h"
#include "core/progress.h"
#include "experiments/run/data.h"

#include <cstdint>
#include <functional>
#include <optional>
#include <string>

namespace mnemo {

/// What a run gets from its process. Nothing here changes its numbers.
struct Host {
  std::string program = "mnemo";  ///< as the program was called
  std::string command;            ///< as typed, for meta.json
  Log log;
  ProgressStyle progress = ProgressStyle::automatic;
  /// The data of a phase, where they have been made before; nothing where they have not.
  std::function<std::optional<PhaseData>(const RunConfig& config, std::int64_t phase)> prepared;
  double max_hours = 0;        ///< > 0: stop, resumable, after this long
  std::function<bool()> stop;  ///< asked between steps, actions and blocks of evaluation, and while data are prepared
};

}  // namespace mnemo
