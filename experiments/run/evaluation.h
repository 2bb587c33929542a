#pragma once

#include "experiments/config/config.h"
#include "experiments/directory/run_directory.h"
#include "experiments/run/evaluate.h"
#include "experiments/run/phase.h"
#include "models/model.h"

#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace mnemo {

/// The evaluations of a run: its current sets (`phase_<k>`, `train`, `novel`), what is measured on them, and the files that each appends to.
class Evaluation {
 public:
  /// All arguments must outlive it. The run adds to `phases`.
  Evaluation(const RunConfig& config, RunDirectory& directory, const std::deque<Phase>& phases, const std::optional<SequenceTable>& novel)
      : config_(config), directory_(directory), phases_(phases), novel_(novel) {}

  /// Starts the files of the current sets, or takes them back to a checkpoint.
  void open(const ModelFacts& model);

  /// When a row is written: after `step` updates, before (0) or after (1) events of that step that changed data or weights.
  struct At {
    std::int64_t step;
    std::uint8_t moment;
  };
  /// Scores every set and appends a row to its eval/<set>/, with everything that the configuration asks for.
  void evaluate(Model& model, At at, const Poll& poll);
  /// Scores the sets named in `on` (all if empty) and appends a row of the common arrays to eval/<name>.<set>/.
  void evaluate_copy(Model& model, At at, const std::string& name, const std::vector<std::string>& on, const Poll& poll);

  /// Mean accuracy over ranks below `top`, and the Bayes ceiling of the same ranks, from the last evaluation of a phase.
  struct Learned {
    double accuracy, ceiling;
    std::int64_t scored;  ///< ranks
  };
  std::optional<Learned> learned(std::size_t phase, std::int64_t top) const;

 private:
  struct Set {
    std::string name;
    const SequenceTable* table;
    std::vector<std::int32_t> ranks;
    const Phase* history;  // null: never trained on
  };
  std::vector<Set> sets() const;
  std::map<std::string, Scores> score_all(Model& model, const std::vector<Set>& sets, const ScoreOptions& options, const Poll& poll) const;
  void append(const std::string& prefix, const Set& set, At at, const Scores& scores);
  std::vector<Column> further_columns(const ModelFacts& model, std::int64_t num_ranks, std::int64_t num_sequences) const;

  const RunConfig& config_;
  RunDirectory& directory_;
  const std::deque<Phase>& phases_;
  const std::optional<SequenceTable>& novel_;
  std::map<std::string, std::vector<float>> last_accuracy_;  // by set
};

}  // namespace mnemo
