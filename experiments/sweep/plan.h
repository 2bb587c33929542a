#pragma once

#include "experiments/config/config.h"
#include "experiments/sweep/axes.h"

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

namespace mnemo {

/// A run of a sweep.
struct SweepPoint {
  LoadedConfig loaded;              ///< resolved; its run is named after the axes
  std::string id;                   ///< identity()
  std::vector<std::string> values;  ///< of the sweep's keys, as YAML in one line

  const std::string& run() const { return *loaded.config.run; }
};

/// All that a sweep does, before anything is done.
struct SweepPlan {
  std::string group;
  std::vector<std::string> keys;  ///< settings that vary, in the order of the axes
  std::vector<SweepPoint> points;
  std::vector<std::string> duplicates;  ///< a sentence for each point that is another one
  SlurmConfig slurm;
};

/// What `mnemo sweep` is given.
struct SweepArguments {
  std::filesystem::path config_path;
  std::vector<std::string> overrides;  ///< `key=value` for all points; `key=a,b`, range() and logspace() are axes, and take the place of the file's
  std::vector<std::string> zips;       ///< each `key,key`
  std::string launcher = "local";      ///< or slurm
};

/// What an earlier call has made of a sweep: its keys, which stay axes, and the name of each point by identity() of its settings.
struct EarlierSweep {
  std::vector<std::string> keys;
  std::map<std::string, std::string> runs;
};

/// The points of a sweep in the order of the file, the last axis fastest. Reads the configuration's files and nothing of the results.
/// `threads: 0` is one thread, `output.pickle: null` is none. Throws ConfigError.
SweepPlan plan_sweep(const SweepArguments& arguments, const std::function<EarlierSweep(const std::string& group)>& earlier = {});

/// What one worker takes: indices into `configs`, at most `max_pack` each, in the order of their first; only runs that may share a pack, and of one
/// `starts` (the step that each resumes at), do.
std::vector<std::vector<std::size_t>> packs_of(const std::vector<RunConfig>& configs, const std::vector<std::int64_t>& starts, std::size_t max_pack);

}  // namespace mnemo
