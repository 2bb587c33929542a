#pragma once

#include "core/progress.h"
#include "experiments/directory/checkpoint.h"
#include "experiments/config/config.h"
#include "experiments/run/pack.h"
#include "experiments/directory/run_directory.h"

#include <chrono>
#include <deque>
#include <exception>
#include <functional>
#include <limits>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

namespace mnemo {

/// How a run is carried out; nothing here changes its numbers.
struct RunOptions {
  std::string program = "mnemo";             ///< the name this program was called by
  std::string command;                       ///< as typed, for meta.json
  ProgressStyle progress = ProgressStyle::automatic;
  double max_hours = 0;                      ///< > 0: stop, resumable, after this long
  std::function<bool()> stop;                ///< asked between steps, actions and blocks of evaluation, and while data are prepared
};

/// The sequences a run trains on, phase by phase, and how often and when each was drawn while its phase was current.
struct Phase {
  SequenceTable table;
  std::int64_t begin = 0;                    ///< step of the switch
  std::vector<std::int64_t> presentations;   ///< (K) draws
  std::vector<std::int64_t> last_seen;       ///< (K) number of the update that drew it last, counting from 1; -1 never
};

/// One run: schedule, events, evaluation, checkpoints, in a directory that it owns. After update n an ordered list of actions runs:
/// the log line, the evaluation, the events in file order, and once more the evaluation if one of them changed data or weights.
/// A checkpoint is (n, actions done), and resuming from it gives the same bytes.
class Run {
 public:
  /// Member `row` of a pack. Reads nothing from the directory yet.
  Run(RunConfig config, fs::path directory, RunOptions options, Pack& pack, std::int64_t row);
  ~Run();

  /// From the newest usable checkpoint, or from the start. `previous` is the configuration the directory was made with.
  /// False: it was stopped on the way, and loses nothing by it.
  bool open(const std::optional<RunConfig>& previous);
  /// Does what is due at this step, and a checkpoint when it is time. False: the run is over.
  bool act();
  /// Update step() was made.
  void trained();
  /// Ends a run: `error` is what stopped it, none when it came to its end. Returns done or stopped; throws what is neither, diverged among
  /// it, with the last checkpoint intact.
  ExitCode end(std::exception_ptr error);

  // What events act on, and do. Names of files are relative to the run directory; `params` are groups or name patterns.
  std::int64_t step() const { return point_.step; }
  fs::path file(const std::string& name) const { return directory_.file(name); }
  const std::optional<SequenceTable>& novel() const { return novel_; }
  void begin_next_phase(bool clear_memory);
  void write_snapshot(const std::string& file);
  void set_frozen(const std::vector<std::string>& params, bool frozen);
  void reset_optimizer(const std::vector<std::string>& params);
  /// Scores the model on the sets that there are now, or on those of them named in `on`, and appends to eval/<prefix><set>/.
  void evaluate(const std::string& prefix = {}, const std::vector<std::string>& on = {});
  /// Of a snapshot of this run, or a file (names_a_file). Throws Error{data} when it is not whole.
  Safetensors weights_from(const std::string& from) const;
  /// Another model with the weights of this one, all of them trainable, and what it has stored.
  std::unique_ptr<Model> copy_of_model() const;
  /// To be called between blocks of work: throws when the run is to stop.
  void poll() const;

  // What a command reports.
  const RunConfig& config() const { return config_; }
  Model& model() const { return pack_.model(row_); }
  const std::deque<Phase>& phases() const { return phases_; }
  const Theory& theory(std::size_t phase) const { return theories_[phase]; }
  /// Mean accuracy over ranks below `top` and the Bayes ceiling of the same ranks, from the last evaluation of a set of a phase.
  struct Learned {
    double accuracy, ceiling;
    std::int64_t scored;  ///< ranks
  };
  std::optional<Learned> learned(std::size_t phase, std::int64_t top) const;

 private:
  struct Interrupted {};
  using Action = std::function<void()>;
  struct EvaluatedSet {
    std::string name;
    const SequenceTable* table;
    std::vector<std::int32_t> ranks;
    const Phase* history;            // none: never trained on
  };

  void prepare(const std::optional<RunConfig>& previous);
  bool stays_at_chance() const;
  std::vector<Action> actions();
  void log_metrics();
  std::vector<EvaluatedSet> sets() const;
  void check_finite();
  void forget_phases();
  void start_phase(SequenceTable table, bool clear_memory = true);
  void write_phase_files();
  void refuse_other_weights(const Safetensors& checkpoint) const;
  void open_series();
  std::vector<Column> further_columns(std::int64_t num_ranks, std::int64_t num_sequences) const;
  void save_checkpoint();
  void restore(RunPoint point, const Safetensors& file);
  void forget_outputs_of_the_end(std::int64_t old_steps) const;
  void refuse_fired_percentages(const RunConfig& previous, RunPoint point) const;
  void write_meta(const std::string& end);
  std::vector<std::pair<std::string, torch::Tensor>> state_tensors();

  RunConfig config_;
  RunOptions options_;
  RunDirectory directory_;
  CheckpointStore checkpoints_;
  std::vector<std::int64_t> data_rows_;
  Pack& pack_;
  std::int64_t row_;
  std::deque<Phase> phases_;  // addresses stay: the pack points at the tables
  std::vector<Theory> theories_;
  std::optional<SequenceTable> novel_;
  RunPoint point_;
  std::uint8_t moment_ = 0;  // of what the action at hand scores: 1 after an event of this step that changed data or weights
  std::set<std::int64_t> planned_ends_;
  std::int64_t steps_since_log_ = 0;
  std::int64_t opened_at_ = 0;   // step of this session's first update
  bool at_chance_ = false;
  std::map<std::string, std::vector<float>> last_accuracy_;  // by set
  double last_loss_ = std::numeric_limits<double>::quiet_NaN();  // of the last line of metrics.jsonl
  std::string started_;
  std::chrono::steady_clock::time_point started_at_, checkpointed_at_, timed_at_;
  std::unique_ptr<StatusFile> status_;
  std::unique_ptr<Progress> progress_;
  std::string progress_note_;
};

/// Weights of a safetensors file of ours (a snapshot, final.safetensors) into replica 0 of a model: those that `params` name. Throws
/// Error{data} when a tensor is missing or has another shape.
void load_weights(Model& model, const Safetensors& file, const std::vector<std::string>& params = {"*"});
/// What such a file says that a model with a memory has stored.
void load_memory(Model& model, const Safetensors& file);

/// The tensors of replica 0 under their PyTorch names, on the CPU.
void write_weights(const fs::path& path, Model& model, const std::map<std::string, std::string>& metadata);

/// The data of a resolved configuration: phase 0 and the law of draws. Throws Error{data} for own data that is no good.
SequenceTable first_table(const RunConfig& config, const Poll& poll = {});
SequenceTable table_of_phase(const RunConfig& config, std::int64_t phase, const Poll& poll = {});
RankSampler sampler_of(const RunConfig& config);
/// The row of data.weights (and of data.file) that each rank is, the largest weight first, of equal ones the earlier row. Empty without own
/// weights: rank = row. A run keeps it as data_rows.npy.
std::vector<std::int64_t> data_rows(const RunConfig& config);
/// Throws Error{data} where the ranks of a run directory are not those that its configuration gives now.
void check_ranks(const fs::path& run_directory, const RunConfig& config);
/// The Bayes predictor of what the configured model predicts.
Theory theory_of(const RunConfig& config, const SequenceTable& table, const RankSampler& sampler, const Poll& poll = {});

AdamScalars scalars_of(const TrainConfig& train);

}  // namespace mnemo
