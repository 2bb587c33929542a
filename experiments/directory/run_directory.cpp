#include "experiments/directory/run_directory.h"

#include "core/error.h"
#include "experiments/run/evaluate.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <ctime>
#include <fstream>
#include <utility>

namespace mnemo {

using nlohmann::json;

namespace {

double resident_megabytes() {
  std::ifstream statm("/proc/self/statm");
  double total = 0, resident = 0;
  statm >> total >> resident;
  return resident * static_cast<double>(sysconf(_SC_PAGESIZE)) / 1e6;
}

constexpr const char* kMetrics = "metrics.jsonl";

}  // namespace

std::string json_number(double value) { return std::isfinite(value) ? fmt::format("{}", value) : "null"; }

// ---- arrays that grow

GrowingArrays::GrowingArrays(const fs::path& run_directory, const std::string& folder, const std::vector<Column>& columns) : folder_(folder) {
  make_directories(run_directory / folder);
  for (const auto& [name, dtype, row] : columns) {
    const auto path = fmt::format("{}/{}.npy", folder, name);
    files_.emplace_back(path, NpyAppender(run_directory / path, dtype, row));
  }
}

void GrowingArrays::append(const std::vector<ArrayView>& rows) {
  if (rows.size() != files_.size()) throw Error(ExitCode::bug, fmt::format("[arrays] {} rows for {} files", rows.size(), files_.size()));
  for (std::size_t i = 0; i < files_.size(); ++i) files_[i].second.append(rows[i]);
}

void GrowingArrays::begin(const FileMarks& marks) {
  const auto begin_file = [&](const std::string& path, NpyAppender& file) {
    const auto mark = marks.find(path);
    mark == marks.end() ? file.begin() : file.rewind(mark->second);
  };
  // Wherever a kill ends this, a row of the last column has all its others: that column shrinks first and appears last.
  for (auto entry = files_.rbegin(); entry != files_.rend(); ++entry) {
    if (path_exists(entry->second.path())) begin_file(entry->first, entry->second);
  }
  for (auto& [path, file] : files_) {
    if (!path_exists(file.path())) begin_file(path, file);
  }
  add_moments();
}

NpyAppender* GrowingArrays::column(const std::string& name) {
  const auto path = fmt::format("{}/{}.npy", folder_, name);
  const auto found = std::find_if(files_.begin(), files_.end(), [&](const auto& file) { return file.first == path; });
  return found == files_.end() ? nullptr : &found->second;
}

/// Fills `moment` for rows of an older version, which had no such column: the second row of a step, and the first of a phase that a switch began, are
/// after events.
void GrowingArrays::add_moments() {
  auto *moment = column("moment"), *step = column("step");
  if (moment == nullptr || moment->rows() == step->rows()) return;
  const auto array = read_npy(step->path(), /*allow_excess=*/true);
  const auto steps = array.view().as<std::int64_t>();
  const bool begins_after_events = folder_.starts_with("eval/phase_") && folder_ != "eval/phase_0";
  for (std::size_t row = 0; row < steps.size(); ++row) {
    const std::uint8_t value = row == 0 ? begins_after_events : steps[row] == steps[row - 1];
    moment->append(view_of(&value, {}));
  }
}

void GrowingArrays::mark(FileMarks& marks) const {
  for (const auto& [path, file] : files_) marks[path] = file.mark();
}

void GrowingArrays::sync() {
  for (auto& [path, file] : files_) file.sync();
}

// ---- StatusFile

StatusFile::StatusFile(fs::path path, std::int64_t steps, std::int64_t step, double loss, std::optional<std::int64_t> checkpoint)
    : path_(std::move(path)), steps_(steps), checkpoint_(checkpoint), step_(step), loss_(loss) {
  write();
  heartbeat_ = std::thread([this] {
    std::unique_lock lock(mutex_);
    for (std::chrono::seconds wait(1); !ending_; wait = std::min(2 * wait, std::chrono::seconds(10))) {
      if (wake_.wait_for(lock, wait) == std::cv_status::timeout) write();
    }
  });
}

StatusFile::~StatusFile() {
  {
    std::lock_guard lock(mutex_);
    ending_ = true;
  }
  wake_.notify_all();
  heartbeat_.join();
  if (state_ == "running") state("failed");
}

void StatusFile::progress(std::int64_t step, double loss) {
  step_ = step;
  loss_ = loss;
}

void StatusFile::state(const std::string& state) {
  std::lock_guard lock(mutex_);
  state_ = state;
  write();
}

void StatusFile::checkpointed(std::int64_t step) {
  std::lock_guard lock(mutex_);
  checkpoint_ = step;
  write();
}

void StatusFile::write() {
  const auto now = static_cast<std::int64_t>(std::time(nullptr));
  try {
    write_atomically(path_,
                     fmt::format("{{\"state\": \"{}\", \"step\": {}, \"steps\": {}, \"loss\": {}, \"checkpoint\": {}, \"heartbeat\": {}}}\n", state_,
                                 step_.load(), steps_, json_number(loss_), checkpoint_ ? std::to_string(*checkpoint_) : "null", now),
                     /*durable=*/false);
  } catch (const Error&) {
    // the next checkpoint reports a full disk; the heartbeat must not end a run
  }
}

Status read_status(const fs::path& run_directory) {
  try {
    const auto file = json::parse(read_file(run_directory / "status.json", 1 << 16));
    Status status;
    status.state = file.at("state");
    status.step = file.at("step");
    status.steps = file.at("steps");
    status.heartbeat = file.value("heartbeat", std::int64_t{0});
    if (file.contains("loss") && file["loss"].is_number()) status.loss = file["loss"];
    status.had_checkpoint = !file.contains("checkpoint") || file["checkpoint"].is_number();
    if (file.contains("checkpoint") && file["checkpoint"].is_number()) status.checkpoint = file["checkpoint"];
    return status;
  } catch (const std::exception&) {
    return {};
  }
}

// ---- RunDirectory

RunDirectory::RunDirectory(fs::path path) : path_(std::move(path)), metrics_(path_ / kMetrics) {}

std::optional<fs::path> RunDirectory::result() const {
  const auto holds_more_than = [](const fs::path& path, std::uintmax_t bytes) {
    std::error_code error;
    const auto size = fs::file_size(path, error);
    return error ? error == std::errc::permission_denied : size > bytes;
  };
  if (holds_more_than(file(kMetrics), 0)) return file(kMetrics);
  for (const auto& set : entries_of(file("eval"))) {
    if (holds_more_than(set / "step.npy", npy_header(Dtype::i64, {}).size())) return set;
  }
  std::error_code unknown;
  if (fs::is_regular_file(file("final.safetensors"), unknown)) return file("final.safetensors");
  if (read_status(path_).step > 0) return file("status.json");
  return {};
}

void RunDirectory::begin(const FileMarks& marks, const Poll& poll) {
  // all are verified before any is cut: another checkpoint may need what this one does not
  const auto npy_header_bytes = static_cast<std::int64_t>(npy_header(Dtype::u8, {}).size());
  RarePoll rare(poll);
  for (const auto& [name, mark] : marks) {
    rare(static_cast<std::size_t>(mark.size >> 10));  // about every 64 MB
    AppendFile(file(name), name == kMetrics ? 0 : npy_header_bytes).rewind(mark);
  }
  marks_ = marks;
  const auto mark = marks.find(kMetrics);
  if (mark != marks.end()) metrics_.rewind(mark->second);
  metrics_.truncate();
  arrays_.clear();
  new_folders_ = {path_};
}

GrowingArrays& RunDirectory::arrays(const std::string& folder, const std::vector<Column>& columns) {
  auto found = arrays_.find(folder);
  if (found == arrays_.end()) {
    found = arrays_.emplace(folder, GrowingArrays(path_, folder, columns)).first;
    new_folders_.insert({file(folder), file(folder).parent_path()});
    found->second.begin(marks_);
  }
  return found->second;
}

GrowingArrays& RunDirectory::series(const std::string& set, const std::vector<std::int32_t>& ranks, const std::vector<Column>& further) {
  const auto folder = "eval/" + set;
  if (arrays_.contains(folder)) return arrays(folder);
  make_directories(file(folder));
  const std::vector<std::int64_t> rank(ranks.begin(), ranks.end());
  write_npy(file(folder) / "rank.npy", row_of(rank), /*durable=*/false);
  const Shape row{std::ssize(ranks)};
  auto columns = further;
  columns.insert(columns.end(), {{"presentations", Dtype::i64, row},
                                 {"last_seen", Dtype::i64, row},
                                 {"loss", Dtype::f32, row},
                                 {"accuracy", Dtype::f32, row},
                                 {"phase", Dtype::i64, {}},
                                 {"moment", Dtype::u8, {}},
                                 {"step", Dtype::i64, {}}});
  return arrays(folder, columns);
}

void RunDirectory::append_metrics(const MetricsLine& line) {
  auto text = fmt::format("{{\"step\": {}, \"phase\": {}, \"draws\": {}, \"train_loss\": {}, \"train_accuracy\": {}, \"lr\": {}", line.step,
                          line.phase, line.draws, json_number(line.train_loss), json_number(line.train_accuracy), json_number(line.lr));
  for (const auto& [name, value] : line.measures) text += fmt::format(", \"{}\": {}", name, json_number(value));
  metrics_.append(text + "}\n");
}

void RunDirectory::append_measures(std::int64_t step, const std::vector<std::pair<std::string, std::vector<float>>>& vectors) {
  if (vectors.empty()) return;
  std::vector<Column> columns;
  std::vector<ArrayView> rows;
  for (const auto& [name, values] : vectors) {
    columns.push_back({name, Dtype::f32, {std::ssize(values)}});
    rows.push_back(row_of(values));
  }
  columns.push_back({"step", Dtype::i64, {}});
  rows.push_back(view_of(&step, {}));
  arrays("measures", columns).append(rows);
}

FileMarks RunDirectory::commit() {
  auto marks = marks_;  // also of series that this session has not opened yet
  metrics_.sync();
  marks[kMetrics] = metrics_.mark();
  for (auto& [folder, arrays] : arrays_) {
    arrays.sync();
    arrays.mark(marks);
  }
  for (const auto& folder : std::exchange(new_folders_, {})) sync_directory(folder);
  return marks;
}

void RunDirectory::append_timing(std::int64_t step, double steps_per_second, double seconds_left) {
  std::ofstream(file("timing.jsonl"), std::ios::app)
      << fmt::format("{{\"time\": {}, \"step\": {}, \"steps_per_s\": {:.4g}, \"eta_s\": {:.0f}, \"rss_mb\": {:.1f}}}\n",
                     static_cast<std::int64_t>(std::time(nullptr)), step, steps_per_second, seconds_left, resident_megabytes());
}

void RunDirectory::write_sequences(std::int64_t phase, const SequenceTable& table) {
  const auto bits = table.unpack_all();
  make_directories(file("sequences"));
  write_npy(file(fmt::format("sequences/phase_{}.npy", phase)), view_of(bits.data(), {table.num_sequences(), table.length()}));
}

void RunDirectory::write_theory(const std::vector<const Theory*>& phases) {
  make_directories(file("theory"));
  json list = json::array();
  for (std::size_t phase = 0; phase < phases.size(); ++phase) {
    const auto& theory = *phases[phase];
    std::vector<double> columns;
    for (std::size_t rank = 0; rank < theory.loss.size(); ++rank) {
      columns.insert(columns.end(), {theory.loss[rank], theory.accuracy[rank]});
    }
    write_npy(file(fmt::format("theory/phase_{}.npy", phase)), view_of(columns.data(), {static_cast<std::int64_t>(theory.loss.size()), 2}),
              /*durable=*/false);
    if (!theory.by_position.empty()) {
      const auto bins = std::ssize(rank_bins(std::ssize(theory.loss)));
      write_npy(file(fmt::format("theory/by_position_{}.npy", phase)),
                view_of(theory.by_position.data(), {bins, std::ssize(theory.by_position) / (2 * bins), 2}), /*durable=*/false);
    }
    list.push_back({{"phase", phase},
                    {"loss_floor", theory.mean_loss},
                    {"accuracy_ceiling", theory.mean_accuracy},
                    {"accuracy_ceiling_unweighted", theory.unweighted_accuracy()},
                    {"retrieval_ceiling", theory.retrieval},
                    {"entropy", theory.entropy}});
  }
  write_atomically(file("theory.json"), json{{"phases", list}}.dump(1) + "\n", /*durable=*/false);
}

void RunDirectory::write_switches(const std::vector<std::int64_t>& phase_starts) {
  json list = json::array();
  for (std::size_t phase = 1; phase < phase_starts.size(); ++phase) {
    list.push_back({{"phase", phase}, {"step", phase_starts[phase]}});
  }
  write_atomically(file("switches.json"), list.dump() + "\n", /*durable=*/false);
}

}  // namespace mnemo
