#pragma once

#include "core/error.h"
#include "experiments/run/host.h"

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace mnemo {

struct Invocation;

/// `mnemo train` as a user typed it.
struct TrainRequest {
  std::filesystem::path config_path;
  std::vector<std::string> overrides;
  std::optional<std::filesystem::path> cache;  ///< --cache
  bool restart = false;                        ///< move an existing directory aside
  bool dry_run = false;                        ///< say what would be done, and how much disk it takes
  Host host;
  std::function<void(std::int64_t)> before_threads;  ///< called with the number of CPU threads before any is started
};

/// Finds the run's directory, carries the run out, and prints what came of it. Returns done or stopped; throws Error.
ExitCode train(const TrainRequest& request);

/// What a command knows of how it was called, into the host of its runs.
void describe(Host& host, const Invocation& invocation, const std::string& progress);
/// Signals ask the runs to save and stop; a run goes on without its terminal.
void let_signals_stop(Host& host);

/// Where results go unless --cache says otherwise: $MNEMO_CACHE, or ./cache.
std::filesystem::path default_cache();

}  // namespace mnemo
