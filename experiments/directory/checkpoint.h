#pragma once

#include "core/log.h"
#include "core/safetensors.h"
#include "experiments/directory/tensors.h"

#include <cstdint>
#include <functional>
#include <optional>
#include <set>
#include <string>
#include <vector>

namespace mnemo {

/// A point of a run: `step` updates and the first `actions` actions after them are done.
struct RunPoint {
  std::int64_t step = 0, actions = 0;
  auto operator<=>(const RunPoint&) const = default;
};

/// checkpoints/step_<n>.<actions>.safetensors. Keeps the newest `keep`, and for ever those at a planned end, step_<steps>.0.
class CheckpointStore {
 public:
  CheckpointStore(fs::path directory, std::int64_t keep) : directory_(std::move(directory)), keep_(keep) {}

  /// Points that have a file, newest first. Throws Error{io} when the directory cannot be listed.
  std::vector<RunPoint> points() const;
  fs::path path(RunPoint point) const;
  /// Writes atomically, then drops the oldest beyond `keep`. `kept_steps`: steps whose checkpoint (step, 0) is kept.
  void save(RunPoint point, const NamedTensors& tensors, const std::map<std::string, std::string>& metadata,
            const std::set<std::int64_t>& kept_steps) const;
  /// Calls `restore` with the newest whole checkpoint that `wanted` accepts. If `restore` finds fault with it (Error{data}), logs that and tries the
  /// one before. Returns the point, or nothing if there is no checkpoint. Throws Error{data} if all are damaged, Error{io} if they cannot be listed,
  /// and any other error of `restore`: a full disk is no reason to go back.
  std::optional<RunPoint> load(const Log& log, const std::function<bool(RunPoint)>& wanted,
                               const std::function<void(RunPoint, const Safetensors&)>& restore) const;

 private:
  fs::path directory_;
  std::int64_t keep_;
};

}  // namespace mnemo
