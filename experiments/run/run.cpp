#include "experiments/run/run.h"

#include "core/error.h"
#include "experiments/record/notebook_pickle.h"
#include "experiments/run/weights.h"
#include "models/make_model.h"

#include <fmt/format.h>
#include <torch/torch.h>

#include <cmath>

namespace mnemo {

namespace {

constexpr std::int64_t kTopRanks = 10;  // what the progress line shows
constexpr double kTimingSeconds = 5;    // between lines of timing.jsonl

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace

Run::Run(RunConfig config, fs::path directory, Host host, Pack& pack, std::int64_t row)
    : config_(std::move(config)),
      host_(std::move(host)),
      pack_(pack),
      row_(row),
      directory_(std::move(directory)),
      checkpoints_(directory_.file("checkpoints"), config_.output.keep),
      record_(directory_.file("meta.json"), config_, pack.device().device, host_.command),
      evaluation_(config_, directory_, phases_, novel_) {
  if (config_.eval.novel > 0) novel_ = SequenceTable::novel(data_seed(config_), config_.eval.novel, config_.data.length);
  started_at_ = checkpointed_at_ = timed_at_ = Clock::now();
}

bool Run::open(const std::optional<RunConfig>& previous) {
  try {
    prepare(previous);
    return true;
  } catch (const Interrupted&) {
    host_.log.info("stopped before the first step");
    status_->progress(point_.step, last_loss_);
    status_->state("stopped");
    return false;
  }
}

bool Run::act() {
  if (!progress_) progress_ = std::make_unique<Progress>(host_.progress, host_.log, point_.step, config_.train.steps);
  const auto steps = config_.train.steps;
  if (point_.step == steps && point_.actions == 0 && planned_ends_.insert(steps).second) save_checkpoint();
  const auto todo = actions_after(point_.step, config_);
  if (!todo.empty()) check_finite();  // on a GPU NaN may be newer than the last look, and nothing may be written as if all were well
  while (point_.actions < std::ssize(todo)) {
    poll();
    carry_out(todo[static_cast<std::size_t>(point_.actions)]);
    if (point_.actions++ == 0 && stays_at_chance()) {
      at_chance_ = true;
      return false;
    }
  }
  if (point_.step == steps) return false;
  if (seconds_since(checkpointed_at_) >= 60 * config_.output.checkpoint_minutes) save_checkpoint();
  poll();
  return true;
}

void Run::carry_out(const Action& action) {
  moment_ = action.moment;
  switch (action.kind) {
    case Action::Kind::log: return log_metrics();
    case Action::Kind::evaluate: return evaluation_.evaluate(model(), {point_.step, moment_}, poller());
    case Action::Kind::event: {
      const auto& event = config_.events[action.event];
      host_.log.info("step {}: {} '{}'", point_.step, kind_of(event), name_of(event));
      std::visit([this](const auto& e) { e.apply(*this); }, event);
    }
  }
}

void Run::trained() {
  auto& phase = phases_.back();
  for (const auto rank : pack_.drawn(row_)) {
    ++phase.presentations[static_cast<std::size_t>(rank)];
    phase.last_seen[static_cast<std::size_t>(rank)] = point_.step + 1;
  }
  if (pack_.device().device.is_cpu()) {
    check_finite();
  } else if (!said_why_not_recorded_) {
    say_why_not_recorded();
  }
  ++steps_since_log_;
  point_ = {point_.step + 1, 0};
  status_->progress(point_.step, last_loss_);
  progress_->update(point_.step, progress_note_);
}

void Run::say_why_not_recorded() {
  const auto why = pack_.why_not_recorded();
  if (why.empty()) return;
  host_.log.warning("the GPU takes a step operation by operation, which is slow, since it would not record one: {}", why);
  said_why_not_recorded_ = true;
}

ExitCode Run::end(std::exception_ptr error) {
  progress_.reset();
  std::string state = at_chance_ ? "at_chance" : "done";
  try {
    try {
      if (error) std::rethrow_exception(error);
      write_weights(directory_.file("final.safetensors"), model(), {{"step", std::to_string(point_.step)}});
      // an end at chance has no checkpoint to come back to, so that nothing may interrupt its pickles
      write_notebook_pickles({directory_.path(), config_}, host_.log, at_chance_ ? Poll() : poller());
    } catch (const Interrupted&) {
      state = "stopped";
      host_.log.info("stopping at step {}", point_.step);
    }
    if (state == "stopped") save_checkpoint();
  } catch (const Error& failure) {
    status_->progress(point_.step, failure.code() == ExitCode::diverged ? NAN : last_loss_);
    if (failure.code() == ExitCode::diverged) {
      status_->state("diverged");
      record_.end("diverged");
    }
    throw;
  }
  record_.end(state);
  status_->progress(point_.step, last_loss_);
  status_->state(state);
  return state == "stopped" ? ExitCode::stopped : ExitCode::done;
}

void Run::poll() const {
  const bool out_of_time = host_.max_hours > 0 && seconds_since(started_at_) >= 3600 * host_.max_hours;
  if (out_of_time || (host_.stop && host_.stop())) throw Interrupted{};
}

/// Decided once, at a log line, which is the first action of its step.
bool Run::stays_at_chance() const {
  if (point_.step != decision_step(config_.train) || !(last_loss_ > config_.train.stop_if->train_loss_above)) return false;
  host_.log.info("step {}: the train loss is {:.4f}, still above {}: train.stop_if ends the run", point_.step, last_loss_,
                 config_.train.stop_if->train_loss_above);
  return true;
}

void Run::check_finite() {
  if (pack_.finite(row_)) return;
  point_ = {opened_at_ + pack_.finite_steps(row_), 0};
  const auto advice = point_.step == 0 ? "No update came before: it is the initial or loaded weights, and a smaller model.init_std may help"
                      : config_.train.weight_decay > 0 ? "A smaller train.lr or train.weight_decay may help"
                                                       : "A smaller train.lr may help";
  throw Error(ExitCode::diverged,
              fmt::format("loss or gradient is not finite after step {}; the weights stay as they were. {}", point_.step, advice));
}

void Run::log_metrics() {
  const auto loss_sum = pack_.loss_sum(row_), accuracy_sum = pack_.accuracy_sum(row_);
  const auto mean = [&](const torch::Tensor& sum) { return sum.item<double>() / static_cast<double>(steps_since_log_); };
  last_loss_ = mean(loss_sum);
  auto measures = model().measures();
  directory_.append_metrics({point_.step, std::ssize(phases_) - 1, point_.step * config_.train.batch_size, last_loss_, mean(accuracy_sum),
                             learning_rate(scalars_of(config_.train), point_.step), std::move(measures.scalars)});
  directory_.append_measures(point_.step, measures.vectors);
  loss_sum.zero_();
  accuracy_sum.zero_();
  steps_since_log_ = 0;
  status_->progress(point_.step, last_loss_);
  progress_note_ = fmt::format("loss {:.4f}", last_loss_);
  if (const auto top = evaluation_.learned(phases_.size() - 1, kTopRanks)) {
    const bool all = config_.eval.validation_stride == 1;
    progress_note_ += fmt::format("  {} accuracy {:.3f}",
                                  all ? fmt::format("top-{}", top->scored) : fmt::format("{} of top-{}", top->scored, kTopRanks), top->accuracy);
  }
  if (seconds_since(timed_at_) >= kTimingSeconds || point_.step == config_.train.steps) {
    timed_at_ = Clock::now();
    directory_.append_timing(point_.step, progress_->steps_per_second(), progress_->seconds_left());
  }
}

// ---- phases

void Run::start_phase(std::int64_t phase, bool clear_memory) {
  auto prepared = host_.prepared ? host_.prepared(config_, phase) : std::nullopt;
  auto data =
      prepared ? *std::move(prepared) : data_of_phase(config_, pack_.law(row_), phase, poller());  // may be interrupted: nothing has changed yet
  const auto num_sequences = static_cast<std::size_t>(data.table.num_sequences());
  phases_.push_back({std::move(data.table), std::move(data.theory), point_.step, std::vector<std::int64_t>(num_sequences, 0),
                     std::vector<std::int64_t>(num_sequences, -1)});
  pack_.begin_phase(row_, phases_.back().table, clear_memory);
}

void Run::begin_next_phase(bool clear_memory) {
  start_phase(std::ssize(phases_), clear_memory);
  write_phase_files();
}

void Run::write_phase_files() {
  std::vector<std::int64_t> starts;
  std::vector<const Theory*> theories;
  for (std::size_t phase = 0; phase < phases_.size(); ++phase) {
    starts.push_back(phases_[phase].begin);
    theories.push_back(&phases_[phase].theory);
    if (config_.output.sequences && !path_exists(directory_.file(fmt::format("sequences/phase_{}.npy", phase)))) {
      directory_.write_sequences(static_cast<std::int64_t>(phase), phases_[phase].table);
    }
  }
  directory_.write_theory(theories);
  directory_.write_switches(starts);
}

// ---- what events do

void Run::write_snapshot(const std::string& file) {
  make_directories(directory_.file("snapshots"));
  write_weights(directory_.file(file), model(), {{"step", std::to_string(point_.step)}});
}

void Run::set_frozen(const std::vector<std::string>& params, bool frozen) {
  for (const auto index : matching_parameters(model().parameters.specs(), params)) pack_.set_frozen(row_, index, frozen);
}

void Run::reset_optimizer(const std::vector<std::string>& params) {
  pack_.reset_optimizer(row_, matching_parameters(model().parameters.specs(), params));
}

void Run::evaluate_copy(const std::string& name, const std::vector<std::string>& on) {
  evaluation_.evaluate_copy(model(), {point_.step, moment_}, name, on, poller());
}

Safetensors Run::weights_from(const std::string& from) const {
  auto file = Safetensors::read(names_a_file(from) ? fs::path(from) : directory_.file(fmt::format("snapshots/{}.safetensors", from)));
  if (file.contains("memory")) host_.log.info("{}: its weights alone are taken, the memory stays as it is", from);
  return file;
}

std::unique_ptr<Model> Run::copy_of_model() const {
  torch::NoGradGuard no_grad;
  auto copy = make_model({&config_.model, 1}, config_.data.length, pack_.dtype(), pack_.device().device);
  copy->parameters.flat_RP().copy_(model().parameters.flat_RP());
  if (auto* memory = copy->memory()) {
    for (std::size_t phase = 0; phase < phases_.size(); ++phase)
      memory->begin_phase(0, static_cast<std::int64_t>(phase), phases_[phase].table, /*clear=*/true);
    memory->set_state(0, model().memory()->state(0));
  }
  return copy;
}

}  // namespace mnemo
