#include "experiments/directory/checkpoint.h"

#include "core/error.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

namespace mnemo {

namespace {

constexpr std::string_view kPrefix = "step_", kSuffix = ".safetensors";

/// "step_120.3.safetensors" -> (120, 3).
std::optional<RunPoint> point_of(std::string_view name) {
  if (!name.starts_with(kPrefix) || !name.ends_with(kSuffix)) return {};
  const auto* const end = name.data() + name.size() - kSuffix.size();
  RunPoint point;
  const auto step = std::from_chars(name.data() + kPrefix.size(), end, point.step);
  if (step.ec != std::errc{} || step.ptr == end || *step.ptr != '.') return {};
  const auto actions = std::from_chars(step.ptr + 1, end, point.actions);
  if (actions.ec != std::errc{} || actions.ptr != end) return {};
  return point;
}

}  // namespace

std::vector<RunPoint> CheckpointStore::points() const {
  std::vector<RunPoint> found;
  for (const auto& entry : entries_of(directory_)) {
    if (const auto point = point_of(entry.filename().string())) found.push_back(*point);
  }
  std::sort(found.rbegin(), found.rend());
  return found;
}

fs::path CheckpointStore::path(RunPoint point) const { return directory_ / fmt::format("{}{}.{}{}", kPrefix, point.step, point.actions, kSuffix); }

void CheckpointStore::save(RunPoint point, const NamedTensors& tensors, const std::map<std::string, std::string>& metadata,
                           const std::set<std::int64_t>& kept_steps) const {
  make_directories(directory_);
  write_tensors(path(point), tensors, metadata);
  std::int64_t newer = 0;
  for (const auto& other : points()) {
    if (other.actions == 0 && kept_steps.count(other.step) != 0) continue;
    if (other > point || newer++ >= keep_) {  // later ones belong to a continuation that was given up
      std::error_code ignored;
      fs::remove(path(other), ignored);
    }
  }
}

std::optional<RunPoint> CheckpointStore::load(const Log& log, const std::function<bool(RunPoint)>& wanted,
                                              const std::function<void(RunPoint, const Safetensors&)>& restore) const {
  std::vector<RunPoint> found;
  try {
    found = points();
  } catch (const Error& error) {
    throw Error(error.code(), fmt::format("{}. The checkpoints may be whole; only --restart, which moves this run aside, starts anew", error.what()));
  }
  for (const auto& entry : entries_of(directory_)) {  // left by a killed process
    std::error_code ignored;
    if (entry.extension() == ".tmp") fs::remove(entry, ignored);
  }
  std::string last_problem;
  for (const auto& point : found) {
    if (!wanted(point)) continue;
    bool restoring = false;
    try {
      const auto file = Safetensors::read(path(point), Safetensors::Digest::required);
      restoring = true;
      restore(point, file);
      if (!last_problem.empty()) log.warning("going on from the checkpoint before it, step {}", point.step);
      return point;
    } catch (const Error& error) {
      const bool unreadable = error.code() == ExitCode::io && !restoring;
      if (error.code() != ExitCode::data && !unreadable) throw;
      last_problem = error.what();
      log.warning("checkpoint not usable: {}", last_problem);
    }
  }
  if (last_problem.empty()) return {};
  refuse(directory_, "no usable checkpoint; only --restart, which moves this run aside, starts anew");
}

}  // namespace mnemo
