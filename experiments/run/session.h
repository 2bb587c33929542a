#pragma once

#include "experiments/config/config.h"
#include "experiments/run/run.h"

#include <filesystem>
#include <string>
#include <vector>

namespace mnemo {

/// Where results go unless --cache says otherwise: $MNEMO_CACHE, or ./cache.
std::filesystem::path default_cache();

/// A training command as a user typed it.
struct TrainRequest {
  std::filesystem::path config_path;
  std::vector<std::string> overrides;
  std::optional<std::filesystem::path> cache;  ///< --cache
  bool restart = false;                        ///< move an existing directory aside
  bool dry_run = false;                        ///< say what would be done, and how much disk it takes
  RunOptions options;
};

/// Finds or makes the run's directory, locks it, compares its configuration with this one, and starts, resumes or reports.
/// Prints the result to standard output. Returns an exit code; throws Error.
ExitCode train(const TrainRequest& request);

/// The number of CPU threads that train() will use: as given, as the run had before, or by the work of a step.
std::int64_t threads_of(const TrainRequest& request);

/// The configuration that a run directory was made with. Throws Error{data} where there is none.
RunConfig stored_config(const std::filesystem::path& run_directory);

}  // namespace mnemo
