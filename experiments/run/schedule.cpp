#include "experiments/run/schedule.h"

#include <algorithm>

namespace mnemo {

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
  if (step % config.eval.every == 0 || step == steps || moment == 1) list.push_back({Action::Kind::evaluate});
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
