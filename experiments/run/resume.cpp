// How a run begins, saves itself and goes on.

#include "experiments/run/run.h"

#include "core/error.h"
#include "core/shell.h"
#include "experiments/directory/run_json.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>
#include <torch/torch.h>

#include <algorithm>

namespace mnemo {

using nlohmann::json;

namespace {

std::string marks_text(const FileMarks& marks) {
  json list = json::array();
  for (const auto& [path, mark] : marks) list.push_back({{"path", path}, {"size", mark.size}, {"xxh3", mark.hash}});
  return list.dump();
}

FileMarks marks_from(const Safetensors& file) {
  FileMarks marks;
  for (const auto& entry : json::parse(file.metadata().at("files"))) {
    marks[entry.at("path")] = {entry.at("size").get<std::int64_t>(), entry.at("xxh3").get<std::string>()};
  }
  return marks;
}

}  // namespace

void Run::prepare(const std::optional<RunConfig>& previous) {
  const auto old_steps = previous ? previous->train.steps : config_.train.steps;
  // a run that grows goes on from its old end, before the actions of that end
  const bool grows = old_steps != config_.train.steps;
  const auto wanted = [&](RunPoint point) { return !(grows && point.step >= old_steps && point.actions > 0); };
  // Says `running` before any file goes back to a checkpoint: a finished run that is killed meanwhile must not still say `done`.
  const auto begin_status = [&](std::int64_t step, double loss, std::optional<std::int64_t> checkpoint) {
    if (!status_) status_ = std::make_unique<StatusFile>(directory_.file("status.json"), config_.train.steps, step, loss, checkpoint);
    status_->progress(step, loss);
  };
  const auto resumed = checkpoints_.load(host_.log, wanted, [&](RunPoint point, const Safetensors& file) {
    if (previous) refuse_fired_percentages(*previous, point);
    begin_status(point.step, file.get<double>("log.last_loss", 1)[0], point.step);
    restore(point, file);
  });
  if (resumed) {
    if (grows) {
      save_checkpoint();  // drops checkpoints among the actions of the old end: with more steps there are others
      forget_outputs_of_the_end(old_steps);
    }
    write_config();
  } else {
    refuse_lost_checkpoints();
    begin_status(0, last_loss_, {});
    start_anew();
  }
  write_phase_files();
  if (const auto& rows = pack_.law(row_).rows; !rows.empty()) write_npy(directory_.file("data_rows.npy"), row_of(rows));
  evaluation_.open(model().facts);
  host_.log.info("{}", model().facts.description());
  host_.log.info("{} sequences of {} bits; batch {}; {} on {} ({}), {} threads", config_.data.num_sequences, config_.data.length,
                 config_.train.batch_size, config_.precision, pack_.device().device.str(), pack_.device().reason, config_.threads);
  host_.log.info("training by {}", model().form());
  if (resumed) host_.log.info("resumed at step {} of {}", point_.step, config_.train.steps);
  status_->progress(point_.step, last_loss_);
}

void Run::start_anew() {
  directory_.begin({});
  fs::remove_all(directory_.file("sequences"));  // left by a start that reached no checkpoint, perhaps with other data
  forget_phases();
  write_config();  // from here on the run resumes by its own config.yaml
  start_phase(0);
}

void Run::write_config() {
  write_atomically(directory_.file("run.json"), run_json(config_), /*durable=*/false);
  write_atomically(directory_.file("config.yaml"), to_yaml(config_));
  record_.begin(point_.step, host_.log);
}

void Run::forget_phases() {
  pack_.restart(row_);
  phases_.clear();
}

void Run::save_checkpoint() {
  check_finite();  // on a GPU NaN may be newer than the last look, and a resumed run would not know
  auto tensors = pack_.state(row_);
  std::vector<std::int64_t> starts;
  for (std::size_t phase = 0; phase < phases_.size(); ++phase) {
    starts.push_back(phases_[phase].begin);
    tensors.emplace_back(fmt::format("phase.{}.presentations", phase), int64_tensor(phases_[phase].presentations));
    tensors.emplace_back(fmt::format("phase.{}.last_seen", phase), int64_tensor(phases_[phase].last_seen));
  }
  tensors.emplace_back("run.point", int64_tensor({point_.step, point_.actions}));
  tensors.emplace_back("run.phase_starts", int64_tensor(starts));
  tensors.emplace_back("run.planned_ends", int64_tensor({planned_ends_.begin(), planned_ends_.end()}));
  tensors.emplace_back("log.steps", int64_tensor({steps_since_log_}));
  tensors.emplace_back("log.last_loss", torch::full({}, last_loss_, torch::kFloat64));
  std::map<std::string, std::string> metadata{{"files", marks_text(directory_.commit())}, {"data", phases_.front().table.digest()}};
  if (const auto digest = pack_.law(row_).digest(); !digest.empty()) metadata["weights"] = digest;
  checkpoints_.save(point_, tensors, metadata, planned_ends_);
  status_->checkpointed(point_.step);
  checkpointed_at_ = Clock::now();
}

void Run::restore(RunPoint point, const Safetensors& file) {
  const auto stored = int64_values(file, "run.point", 2);
  const auto starts = int64_values(file, "run.phase_starts");
  if (RunPoint{stored[0], stored[1]} != point || starts.empty()) refuse(file.path(), "is not the checkpoint that its name says");
  point_ = point;
  opened_at_ = point.step;
  forget_phases();
  for (std::size_t phase = 0; phase < starts.size(); ++phase) {
    start_phase(static_cast<std::int64_t>(phase));
    auto& history = phases_.back();
    history.begin = starts[phase];
    history.presentations = int64_values(file, fmt::format("phase.{}.presentations", phase), config_.data.num_sequences);
    history.last_seen = int64_values(file, fmt::format("phase.{}.last_seen", phase), config_.data.num_sequences);
  }
  refuse_other_data(file);
  pack_.restore(row_, file);
  steps_since_log_ = int64_values(file, "log.steps", 1)[0];
  last_loss_ = file.get<double>("log.last_loss", 1)[0];
  const auto ends = int64_values(file, "run.planned_ends");
  planned_ends_ = {ends.begin(), ends.end()};
  directory_.begin(marks_from(file), poller());
  evaluation_.open(model().facts);
}

// ---- refusals: what would change the rest of a run

/// A run that was killed before its first checkpoint starts again. One whose checkpoints are gone is refused: to start again would lose its results.
void Run::refuse_lost_checkpoints() const {
  const auto result = directory_.result();
  if (!result || !read_status(directory_.path()).had_checkpoint) return;
  throw Error(ExitCode::data, fmt::format("{}: holds no checkpoint to go on from, but this run has results ({}). Put its checkpoints back; "
                                          "only --restart, which moves this run aside, starts anew",
                                          directory_.file("checkpoints").string(), result->string()));
}

void Run::refuse_other_data(const Safetensors& checkpoint) const {
  const auto& metadata = checkpoint.metadata();
  if (metadata.at("data") != phases_.front().table.digest()) {
    throw Error(ExitCode::config, fmt::format("{}: the sequences are no longer those this run was started with; --restart starts anew",
                                              config_.data.file.value_or("data")));
  }
  const auto& law = pack_.law(row_);
  if (law.rows.empty()) return;
  const auto digest = metadata.find("weights");
  const bool same = digest != metadata.end() ? digest->second == law.digest()
                                             : std::is_sorted(law.rows.begin(), law.rows.end());  // an older version, whose ranks are rows
  if (same) return;
  throw Error(ExitCode::config, fmt::format("{}: the weights, or the ranks that follow from them, are no longer those this run was started with; "
                                            "--restart starts anew",
                                            *config_.data.weights));
}

void Run::refuse_fired_percentages(const RunConfig& previous, RunPoint point) const {
  std::string happened, pins;
  for (std::size_t i = 0; i < config_.events.size(); ++i) {
    const auto &planned = schedule_of(previous.events[i]).at, &at = schedule_of(config_.events[i]).at;
    if (!planned || !at) continue;
    const auto before = planned->step(previous.train.steps), after = at->step(config_.train.steps);
    if (before == after || !(RunPoint{before, 0} < point)) continue;
    happened += fmt::format("event '{}' at {} happened at step {} already; with train.steps = {} it would belong at {}\n", name_of(config_.events[i]),
                            at->to_text(), before, config_.train.steps, after);
    pins += fmt::format(" events.{}.at={}", i, before);
  }
  if (pins.empty()) return;
  throw Error(ExitCode::config,
              fmt::format("{}Give this longer run another name, or go on with this one and leave these events at the steps where they happened:\n  "
                          "{} train.steps={}{}",
                          happened, command_line(host_.program, "train", directory_.file("config.yaml")), config_.train.steps, pins));
}

/// `at: end` events happen again at the new end: removes their files of the old one, which have its step in their names.
void Run::forget_outputs_of_the_end(std::int64_t old_steps) const {
  std::error_code ignored;
  for (const auto& event : config_.events) {
    const auto& at = schedule_of(event).at;
    if (!at || !at->relative() || at->step(old_steps) != old_steps) continue;
    for (const auto& file : outputs_of(event, old_steps)) fs::remove_all(directory_.file(file), ignored);
  }
}

}  // namespace mnemo
