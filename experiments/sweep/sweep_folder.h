#pragma once

#include "core/log.h"
#include "experiments/run/worker.h"
#include "experiments/sweep/plan.h"

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace mnemo {

/// A line of the manifest: a run of a sweep, and its values of the settings that vary.
struct SweepRow {
  std::string run, id;                                      ///< its folder in the group; identity() of its settings
  std::vector<std::pair<std::string, std::string>> values;  ///< key and value as YAML
};

/// cache/<group>, as a sweep: its own files are in .sweep/, and each run has its directory with its config.yaml from the beginning.
///
/// .sweep/manifest.jsonl is the union of all that was ever asked for: {"run": "train.lr=0.001", "id": "...", "values": {"train.lr": "0.001"}}.
class SweepFolder {
 public:
  explicit SweepFolder(std::filesystem::path group) : group_(std::move(group)) {}

  const std::filesystem::path& path() const { return group_; }
  std::filesystem::path own(const std::string& name) const { return group_ / ".sweep" / name; }
  std::filesystem::path directory_of(const std::string& run) const { return group_ / run; }
  bool exists() const;

  /// The manifest. A line that cannot be read is left out, and said so.
  std::vector<SweepRow> rows(const Log& log) const;
  EarlierSweep earlier(const Log& log) const;
  /// The arguments of the latest call, its files absolute; none where that is not known.
  std::optional<SweepArguments> last_call() const;

  /// Adds the points of a plan to the manifest and writes config.yaml of those that have no directory yet. Throws Error{config}, and has changed
  /// nothing, where a directory holds a run with other settings.
  void add(const SweepPlan& plan, const SweepArguments& call, const Log& log) const;

 private:
  std::filesystem::path group_;
};

/// Runs of a group as their own config.yaml describe them; one that has none is left out, and said so.
std::vector<Member> stored_members(const std::filesystem::path& group, const std::vector<std::string>& runs, const Log& log);

/// The keys of all rows, in the order in which they appear.
std::vector<std::string> keys_of(const std::vector<SweepRow>& rows);

}  // namespace mnemo
