#pragma once

#include "core/error.h"
#include "core/progress.h"
#include "experiments/run/worker.h"

#include <cstddef>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace mnemo {

/// Those of a sweep's runs that are neither over nor diverged: which they are, and what packs_of() asks of them.
struct OpenRuns {
  std::vector<std::size_t> members;
  std::vector<RunConfig> configs;
  std::vector<std::int64_t> starts;
};
OpenRuns open_runs(const std::vector<Member>& members);

/// How the runs of a sweep are spread over this machine.
struct LocalLauncher {
  std::size_t jobs = 1;           ///< workers at a time
  std::size_t max_pack = 0;       ///< runs that a worker trains together, fewer where they do not fit into memory; 0: see StepCost
  std::vector<std::string> gpus;  ///< a worker sees one of them alone; empty: all see what this process sees
  ProgressStyle progress = ProgressStyle::automatic;
};

/// Carries out what is not over of `members` in forked workers, and says what came of each. Done where every run is done, at chance or diverged;
/// stopped where one was; else the largest code of those that failed.
ExitCode carry_out_here(const std::vector<Member>& members, const LocalLauncher& launcher, const Host& host);

/// Carries out runs of one pack in this process, and logs what came of each that is not done. The code is that of carry_out_here().
ExitCode carry_out_and_log(const std::vector<Member>& members, const Host& host);

/// What a step of a run costs, measured in a forked worker.
struct StepCost {
  double seconds;
  std::size_t
      max_pack;  ///< as many of its kind as the free memory of its GPU holds, a fifth left over; 1 on the CPU, which gains nothing from a pack
};
/// `gpus` as of LocalLauncher. None where it cannot be measured.
std::optional<StepCost> cost_of_step(const RunConfig& config, const std::vector<std::string>& gpus = {});

/// Runs that a worker takes of `runs`, if nobody says: so many that all `jobs` workers have some, and no more than `cost` allows.
std::size_t default_max_pack(const std::optional<StepCost>& cost, std::size_t runs, std::size_t jobs);

}  // namespace mnemo
