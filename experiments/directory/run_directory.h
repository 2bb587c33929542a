#pragma once

#include "core/files.h"
#include "core/npy.h"
#include "core/sequences.h"
#include "experiments/run/theory.h"

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <limits>
#include <map>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <vector>

namespace mnemo {

/// Marks of append-only files by their path in the run directory.
using FileMarks = std::map<std::string, FileMark>;

/// An array of a folder that grows by a row at a time.
struct Column {
  std::string name;  ///< <name>.npy
  Dtype dtype;
  Shape row;
};

/// Arrays in one folder of a run directory that grow together. Rows of one step are told apart by a column `moment` (uint8): 0 before the
/// events of the step, 1 after one of them changed data or weights.
class GrowingArrays {
 public:
  GrowingArrays(const fs::path& run_directory, const std::string& folder, const std::vector<Column>& columns);

  /// A row for each column, in their order.
  void append(const std::vector<ArrayView>& rows);
  /// Starts empty files, or goes back to the marks of a checkpoint.
  void begin(const FileMarks& marks);
  void mark(FileMarks& marks) const;
  void sync();

 private:
  NpyAppender* column(const std::string& name);
  void add_moments();

  std::string folder_;
  std::vector<std::pair<std::string, NpyAppender>> files_;  // by path in the run directory
};

/// status.json, rewritten by a thread of its own so that a hung run shows: soon at first, then every ten seconds. Says `running` from the start, and
/// `failed` at the end unless told another state. Failed writes are ignored.
class StatusFile {
 public:
  /// `checkpoint`: the step of the newest one, where the run has any.
  StatusFile(fs::path path, std::int64_t steps, std::int64_t step, double loss, std::optional<std::int64_t> checkpoint);
  ~StatusFile();
  StatusFile(const StatusFile&) = delete;
  StatusFile& operator=(const StatusFile&) = delete;

  /// Does not block.
  void progress(std::int64_t step, double loss);
  /// Writes now.
  void state(const std::string& state);
  void checkpointed(std::int64_t step);

 private:
  void write();
  fs::path path_;
  std::int64_t steps_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::string state_ = "running";
  std::optional<std::int64_t> checkpoint_;
  std::atomic<std::int64_t> step_;
  std::atomic<double> loss_;
  bool ending_ = false;
  std::thread heartbeat_;
};

/// Content of status.json, as far as a resume needs it.
struct Status {
  std::string state;
  std::int64_t step = 0, steps = 0, heartbeat = 0;
  double loss = std::numeric_limits<double>::quiet_NaN();
  bool had_checkpoint = true;                   ///< false: killed before its first one
  std::optional<std::int64_t> checkpoint = {};  ///< step of the newest one, where it is known
};
/// Empty state when there is no readable status.
Status read_status(const fs::path& run_directory);

/// One line of metrics.jsonl.
struct MetricsLine {
  std::int64_t step, phase, draws;
  double train_loss, train_accuracy, lr;
  std::vector<std::pair<std::string, double>> measures;  ///< of the model
};

/// A number for JSON: shortest, and null if it is not finite.
std::string json_number(double value);

/// cache/<group>/<run>/ and its files (DESIGN 4). Text, .npy and safetensors; append-only between checkpoints.
class RunDirectory {
 public:
  explicit RunDirectory(fs::path path);

  const fs::path& path() const { return path_; }
  fs::path file(const std::string& name) const { return path_ / name; }

  /// A file with results of the run, if there is one. Throws Error{io} if that cannot be known.
  std::optional<fs::path> result() const;
  /// Starts the append-only files empty, or from the marks of a checkpoint. Throws Error{data} and changes nothing if they do not fit.
  void begin(const FileMarks& marks, const Poll& poll = {});
  /// The arrays of a folder. The first call creates them, or takes them back to the marks of begin().
  GrowingArrays& arrays(const std::string& folder, const std::vector<Column>& columns = {});
  /// Those of an evaluated set, eval/<set>: `further` columns, then presentations, last_seen, loss, accuracy, phase, moment and step. `step.npy` is
  /// written last, so that its length is the number of whole rows.
  GrowingArrays& series(const std::string& set, const std::vector<std::int32_t>& ranks, const std::vector<Column>& further = {});
  void append_metrics(const MetricsLine& line);
  /// A row of measures/<name>.npy (T, L) for each, and of measures/step.npy, last. Nothing if there are none.
  void append_measures(std::int64_t step, const std::vector<std::pair<std::string, std::vector<float>>>& vectors);
  /// fsyncs the append-only files and says where they stand.
  FileMarks commit();

  void append_timing(std::int64_t step, double steps_per_second, double seconds_left);
  void write_sequences(std::int64_t phase, const SequenceTable& table);
  void write_theory(const std::vector<const Theory*>& phases);
  void write_switches(const std::vector<std::int64_t>& phase_starts);

 private:
  fs::path path_;
  std::set<fs::path> new_folders_;  // whose entries are not durable yet
  AppendFile metrics_;
  FileMarks marks_;
  std::map<std::string, GrowingArrays> arrays_;  // by folder
};

}  // namespace mnemo
