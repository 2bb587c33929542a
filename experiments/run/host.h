#pragma once

#include "core/log.h"
#include "core/progress.h"

#include <functional>
#include <string>

namespace mnemo {

/// What comes into a run from the process that carries it out. Nothing here changes its numbers.
struct Host {
  std::string program = "mnemo";  ///< the name this program was called by
  std::string command;            ///< as typed, for meta.json
  Log log;
  ProgressStyle progress = ProgressStyle::automatic;
  double max_hours = 0;        ///< > 0: stop, resumable, after this long
  std::function<bool()> stop;  ///< asked between steps, actions and blocks of evaluation, and while data are prepared
};

}  // namespace mnemo
