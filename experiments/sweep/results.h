#pragma once

#include "core/log.h"
#include "core/table.h"
#include "experiments/directory/run_directory.h"
#include "experiments/sweep/sweep_folder.h"

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace mnemo {

/// A run as its directory shows it.
struct RunState {
  SweepRow row;
  /// waiting, running, lost (it says running, but its last sign of life is a minute old), done, stopped, diverged, at_chance, failed, or missing
  std::string state;
  Status status;
};

/// The runs of a sweep in the order of its manifest; of another group, or of one run directory, those that are there, by name.
/// Throws Error{data} where there are none.
std::vector<RunState> run_states(const std::filesystem::path& directory, const Log& log);

/// A line for each run: its values, its name, how far it is.
Table status_table(const std::vector<RunState>& runs);
/// A line for each group of a cache, the newest first.
Table cache_table(const std::filesystem::path& cache, const Log& log);
/// "7 of 9 done, 1 running, 1 diverged".
std::string counts_text(const std::vector<RunState>& runs);

/// What runs are ranked by: eval.<set>.loss or .accuracy, the mean over a set at its last evaluation; train_loss or train_accuracy, of the last line
/// of metrics.jsonl.
class Metric {
 public:
  /// Throws Error{usage} for another name.
  explicit Metric(const std::string& name);
  const std::string& name() const { return name_; }
  bool is_better(double a, double b) const { return largest_ ? a > b : a < b; }
  /// Throws Error{data} or Error{io} where a run that is done lacks it.
  double of(const std::filesystem::path& run) const;

 private:
  std::string name_, set_, column_;  // no set: of metrics.jsonl
  bool largest_;
};

/// A point of a grid: runs that differ in nothing but the settings that are averaged over.
struct BestPoint {
  std::vector<std::string> values;  ///< of the keys that are left
  std::size_t runs = 0;
  std::vector<double> metrics;  ///< of those that are done, or stayed at chance
  std::size_t diverged = 0;

  double mean() const;
  double deviation() const;  ///< of a sample; NaN below two
};

/// The best points first; then those without a finished run.
struct BestRuns {
  std::vector<std::string> keys;
  std::vector<BestPoint> points;

  Table table(const Metric& metric) const;
};

BestRuns best_runs(const std::filesystem::path& directory, const std::vector<RunState>& runs, const Metric& metric,
                   const std::vector<std::string>& over);

/// A numeric setting whose best value is the smallest or the largest tried, and two values beyond it; none of settings that are zipped.
struct GridEdge {
  std::string key, value;
  bool is_largest;
  std::vector<std::string> beyond;
};
std::vector<GridEdge> grid_edges(const BestRuns& best);

}  // namespace mnemo
