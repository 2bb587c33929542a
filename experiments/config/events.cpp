#include "experiments/config/events.h"

#include "experiments/run/run.h"
#include "experiments/run/weights.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace mnemo {

bool When::from_text(std::string_view text, std::string& problem) {
  const bool is_percentage = text.ends_with('%');
  const std::string number(text.substr(0, text.size() - (is_percentage ? 1 : 0)));
  double value = 100;
  if (text != "end" && !config_detail::parse(config_detail::plain_node(number), value).empty()) {
    const auto other = config_detail::corrected(number);
    if (!other.empty())
      problem = fmt::format("expected {}, got '{}'; write {}{}", kTypeName, config_detail::brief(text), other, is_percentage ? "%" : "");
    return false;
  }
  if (text.starts_with('-')) {
    problem = fmt::format("must not be negative, got {}", text);
  } else if (is_percentage && value > 100) {
    problem = fmt::format("must be at most 100%, got {}", text);
  } else if (is_percentage || text == "end") {
    text_ = text;
    percent_ = value;
    return true;
  } else if (value == std::floor(value) && value <= 1e15) {
    step_ = static_cast<std::int64_t>(value);
    text_ = std::to_string(step_);
    percent_ = -1;
    return true;
  }
  return false;
}

std::int64_t When::step(std::int64_t steps) const {
  if (percent_ < 0) return step_;
  const double step = static_cast<double>(steps) * percent_ / 100, nearest = std::round(step);
  return static_cast<std::int64_t>(nearest - step < 1e-15 * nearest ? nearest : std::floor(step));  // 0.57% of 10000 is 57
}

bool Schedule::due(std::int64_t step, std::int64_t steps) const {
  if (at) return at->step(steps) == step;
  return every && step > 0 && step < steps && step % *every == 0;
}

std::int64_t Schedule::occurrences(std::int64_t steps, std::int64_t last) const {
  if (at) return at->step(steps) <= std::min(steps, last) ? 1 : 0;
  return every ? std::min(steps - 1, last) / *every : 0;
}

std::string_view kind_of(const EventConfig& event) {
  return std::visit([](const auto& e) { return e.kKind; }, event);
}

namespace {

const Event& common_to_all(const EventConfig& event) {
  return std::visit([](const Event& e) -> const Event& { return e; }, event);
}
Event& common_to_all(EventConfig& event) {
  return std::visit([](Event& e) -> Event& { return e; }, event);
}

}  // namespace

Schedule& schedule_of(EventConfig& event) { return common_to_all(event).schedule; }
const Schedule& schedule_of(const EventConfig& event) { return common_to_all(event).schedule; }
std::string& name_of(EventConfig& event) { return common_to_all(event).name; }
const std::string& name_of(const EventConfig& event) { return common_to_all(event).name; }

Needs needs_of(const EventConfig& event) {
  return std::visit([](const auto& e) { return e.needs(); }, event);
}

std::string* from_of(EventConfig& event) { return const_cast<std::string*>(needs_of(event).from); }

bool changes_data_or_weights(const EventConfig& event) {
  return std::visit([](const auto& e) { return e.kChanges; }, event);
}

Files outputs_of(const EventConfig& event, std::int64_t step) {
  return std::visit([&](const auto& e) { return e.outputs(step); }, event);
}

bool names_a_file(std::string_view from) { return from.find('/') != from.npos || from.ends_with(".safetensors"); }

void SwitchEvent::apply(Run& run) const {
  run.begin_next_phase(clear_memory.value_or(true));
  if (reset_optimizer) run.reset_optimizer({"*"});
}

std::string SnapshotEvent::snapshot(std::int64_t step) const { return schedule.every ? fmt::format("{}_{}", name, step) : name; }

Files SnapshotEvent::outputs(std::int64_t step) const { return {fmt::format("snapshots/{}.safetensors", snapshot(step))}; }

void SnapshotEvent::apply(Run& run) const { run.write_snapshot(outputs(run.step())[0]); }

template <bool kFrozen>
void FreezingEvent<kFrozen>::apply(Run& run) const {
  run.set_frozen(params, kFrozen);
  if (reset_optimizer) run.reset_optimizer(params);
}

template struct FreezingEvent<true>;
template struct FreezingEvent<false>;

void LoadEvent::apply(Run& run) const {
  load_weights(run.model(), run.weights_from(from), params);
  if (reset_optimizer) run.reset_optimizer(params);
}

}  // namespace mnemo
