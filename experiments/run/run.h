#pragma once

#include "core/poll.h"
#include "core/progress.h"
#include "experiments/config/config.h"
#include "experiments/directory/checkpoint.h"
#include "experiments/directory/run_directory.h"
#include "experiments/run/evaluation.h"
#include "experiments/run/host.h"
#include "experiments/run/pack.h"
#include "experiments/run/phase.h"
#include "experiments/run/schedule.h"
#include "experiments/run/session_record.h"

#include <chrono>
#include <deque>
#include <exception>
#include <limits>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

namespace mnemo {

/// One run: a row of a pack, and a directory that it owns. After each update the actions of schedule.h are done; a checkpoint is (updates, actions
/// done), and resuming from it gives the same bytes. The loop is train() of pack.h.
class Run {
 public:
  /// Member `row` of a pack. Reads nothing from the directory yet.
  Run(RunConfig config, fs::path directory, Host host, Pack& pack, std::int64_t row);

  /// Resumes from the newest usable checkpoint, or starts. `previous` is the configuration the directory was made with. False: it was stopped
  /// meanwhile, and loses nothing.
  bool open(const std::optional<RunConfig>& previous);
  /// Updates done.
  std::int64_t step() const { return point_.step; }
  /// Carries out the actions of this step, and saves a checkpoint if it is time. False: the run is over.
  bool act();
  /// Records that update step() was made.
  void trained();
  /// Ends the run. `error` is what stopped it, null at its planned end. Returns done or stopped; throws any other error, such as divergence, with the
  /// last checkpoint intact.
  ExitCode end(std::exception_ptr error);

  // For events. Names of files are relative to the run directory; `params` are groups or name patterns.
  const RunConfig& config() const { return config_; }
  const Log& log() const { return host_.log; }
  Model& model() const { return pack_.model(row_); }
  const std::deque<Phase>& phases() const { return phases_; }
  const std::optional<SequenceTable>& novel() const { return novel_; }
  fs::path file(const std::string& name) const { return directory_.file(name); }
  void begin_next_phase(bool clear_memory);
  void write_snapshot(const std::string& file);
  void set_frozen(const std::vector<std::string>& params, bool frozen);
  void reset_optimizer(const std::vector<std::string>& params);
  /// Scores the model as it is now on the sets named in `on`, or on all, and appends to eval/<name>.<set>/.
  void evaluate_copy(const std::string& name, const std::vector<std::string>& on);
  /// The weights of a snapshot of this run, or of a file (names_a_file). Throws Error{data} if it is damaged.
  Safetensors weights_from(const std::string& from) const;
  /// A copy of the model: the same weights, all trainable, and the same memory.
  std::unique_ptr<Model> copy_of_model() const;
  /// To be called between blocks of work; throws if the run is to stop.
  void poll() const;

 private:
  struct Interrupted {};
  using Clock = std::chrono::steady_clock;

  // run.cpp
  void carry_out(const Action& action);
  bool stays_at_chance() const;
  void log_metrics();
  void check_finite();
  void say_why_not_recorded();
  void start_phase(std::int64_t phase, bool clear_memory = true);
  void write_phase_files();
  Poll poller() const {
    return [this] { poll(); };
  }

  // resume.cpp
  void prepare(const std::optional<RunConfig>& previous);
  void start_anew();
  void restore(RunPoint point, const Safetensors& file);
  void save_checkpoint();
  void write_config();
  void forget_phases();
  void refuse_lost_checkpoints() const;
  void refuse_other_data(const Safetensors& checkpoint) const;
  void refuse_fired_percentages(const RunConfig& previous, RunPoint point) const;
  void forget_outputs_of_the_end(std::int64_t old_steps) const;

  RunConfig config_;
  Host host_;
  Pack& pack_;
  std::int64_t row_;
  RunDirectory directory_;
  CheckpointStore checkpoints_;
  SessionRecord record_;
  std::deque<Phase> phases_;  // addresses stay: the pack points at the tables
  std::optional<SequenceTable> novel_;
  Evaluation evaluation_;
  RunPoint point_;
  std::uint8_t moment_ = 0;  // of the current action
  std::set<std::int64_t> planned_ends_;
  std::int64_t steps_since_log_ = 0;
  std::int64_t opened_at_ = 0;  // step of this session's first update
  bool at_chance_ = false, said_why_not_recorded_ = false;
  double last_loss_ = std::numeric_limits<double>::quiet_NaN();  // of the last line of metrics.jsonl
  Clock::time_point started_at_, checkpointed_at_, timed_at_;
  std::unique_ptr<StatusFile> status_;
  std::unique_ptr<Progress> progress_;
  std::string progress_note_;
};

}  // namespace mnemo
