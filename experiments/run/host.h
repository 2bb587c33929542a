#pragma once

#include "core/log.h"
#include "core/progress.h"

#include <functional>
#include <string>

namespace mnemo {

/// What a run gets from its process. Nothing here changes its numbers.
struct Host {
  std::string program = "mnemo";  ///< as the program was called
  std::string command;            ///< as typed, for meta.json
  Log log;
  ProgressStyle progress = ProgressStyle::automatic;
  double max_hours = 0;        ///< > 0: stop, resumable, after this long
  std::function<bool()> stop;  ///< asked between steps, actions and blocks of evaluation, and while data are prepared
};

}  // namespace mnemo
