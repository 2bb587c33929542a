#include "experiments/run/schedule.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace mnemo {

namespace {

/// Where the last phase began that began before `step`.
std::int64_t phase_start(std::int64_t step, const RunConfig& config) {
  std::int64_t start = 0;
  for (const auto& event : config.events) {
    if (!std::holds_alternative<SwitchEvent>(event)) continue;
    const auto& schedule = schedule_of(event);
    const auto last = schedule.at ? schedule.at->step(config.train.steps) : (step - 1) / *schedule.every * *schedule.every;
    if (last < step) start = std::max(start, last);
  }
  return start;
}

bool evaluates_after(std::int64_t step, const RunConfig& config) {
  const auto& eval = config.eval;
  if (step % eval.every == 0 || step == config.train.steps) return true;
  return eval.per_decade > 0 && is_log_spaced(step - phase_start(step, config), eval.per_decade);
}

/// round(10^(k / n)): 10^(k / n) is whole or irrational, so that no rounding of it is a matter of the last bit.
std::int64_t log_spaced(std::int64_t k, std::int64_t n) { return std::llround(std::pow(10.0, static_cast<double>(k) / static_cast<double>(n))); }

}  // namespace

bool is_log_spaced(std::int64_t distance, std::int64_t per_decade) {
  const auto near = std::llround(static_cast<double>(per_decade) * std::log10(static_cast<double>(distance)));
  // the powers that round to `distance` lie around it, so that the k next to n log10(distance) on one side gives one of them if any does
  for (auto k = std::max<std::int64_t>(0, near - 1); k <= near + 1; ++k) {
    if (log_spaced(k, per_decade) == distance) return true;
  }
  return false;
}

double num_evaluations(const RunConfig& config) {
  const auto steps = config.train.steps, phases = num_phases(config);
  std::int64_t twice = 0;  // before and after
  for (const auto& event : config.events) twice += changes_data_or_weights(event) ? schedule_of(event).occurrences(steps) : 0;
  const auto evaluations = static_cast<double>(2 + (steps - 1) / config.eval.every + 2 * twice);
  if (config.eval.per_decade == 0) return evaluations;
  std::int64_t logarithmic = 1, last = 0;  // of a phase of the mean length, and one more: phases of other lengths have no more together
  for (std::int64_t k = 0; log_spaced(k, config.eval.per_decade) <= steps / phases; ++k) {
    const auto distance = log_spaced(k, config.eval.per_decade);
    logarithmic += distance != std::exchange(last, distance);
  }
  return evaluations + static_cast<double>(phases) * static_cast<double>(logarithmic);
}

AdamScalars scalars_of(const TrainConfig& train) {
  return {.lr = train.lr,
          .beta1 = train.betas[0],
          .beta2 = train.betas[1],
          .eps = train.eps,
          .weight_decay = train.weight_decay,
          .decoupled = train.decay == "decoupled",
          .clip_norm = train.clip_norm,
          .warmup = train.warmup,
          .cosine_steps = train.schedule == "cosine" ? train.steps : 0};
}

std::vector<Action> actions_after(std::int64_t step, const RunConfig& config) {
  const auto steps = config.train.steps;
  std::vector<Action> events;
  std::uint8_t moment = 0;
  for (std::size_t i = 0; i < config.events.size(); ++i) {
    if (!schedule_of(config.events[i]).due(step, steps)) continue;
    events.push_back({Action::Kind::event, i, moment});
    if (changes_data_or_weights(config.events[i])) moment = 1;
  }
  std::vector<Action> list;
  if (step > 0 && (step % config.train.log_every == 0 || step == steps)) list.push_back({Action::Kind::log});
  if (moment == 1 || evaluates_after(step, config)) list.push_back({Action::Kind::evaluate});
  list.insert(list.end(), events.begin(), events.end());
  if (moment == 1) list.push_back({Action::Kind::evaluate, 0, moment});
  return list;
}

std::optional<std::int64_t> decision_step(const TrainConfig& train) {
  if (!train.stop_if) return {};
  return std::min(((train.stop_if->after - 1) / train.log_every + 1) * train.log_every, train.steps);
}

std::int64_t num_phases(const RunConfig& config) {
  std::int64_t phases = 1;
  for (const auto& event : config.events) {
    if (std::holds_alternative<SwitchEvent>(event)) phases += schedule_of(event).occurrences(config.train.steps);
  }
  return phases;
}

}  // namespace mnemo
