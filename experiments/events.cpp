#include "experiments/events.h"

#include "experiments/run.h"

#include <fmt/format.h>

#include <charconv>
#include <cmath>

namespace mnemo {

bool When::from_text(std::string_view text, std::string& problem) {
  if (text == "end") {
    percent_ = 100;
  } else {
    const bool is_percentage = text.ends_with('%');
    const auto digits = is_percentage ? text.substr(0, text.size() - 1) : text;
    double value = 0;
    const auto [stop, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value, std::chars_format::fixed);
    const bool leading_zero = digits.size() > 1 && digits[0] == '0' && digits[1] != '.';
    if (error != std::errc{} || stop != digits.data() + digits.size() || leading_zero || !std::isfinite(value)) return false;
    if (value < 0) {
      problem = fmt::format("must not be negative, got {}", text);
      return false;
    }
    if (is_percentage) {
      if (value > 100) {
        problem = fmt::format("must be at most 100%, got {}", text);
        return false;
      }
      percent_ = value;
    } else {
      if (value != std::floor(value) || value > 1e15) return false;
      percent_ = -1;
      step_ = static_cast<std::int64_t>(value);
    }
  }
  text_ = text;
  return true;
}

std::int64_t When::step(std::int64_t steps) const {
  if (percent_ < 0) return step_;
  return static_cast<std::int64_t>(std::floor(static_cast<double>(steps) * percent_ / 100));
}

bool Schedule::due(std::int64_t step, std::int64_t steps) const {
  if (at) return at->step(steps) == step;
  return every && step > 0 && step < steps && step % *every == 0;
}

std::string_view kind_of(const EventConfig& event) {
  return std::visit([](const auto& e) { return e.kKind; }, event);
}

const Schedule& schedule_of(const EventConfig& event) {
  return std::visit([](const auto& e) -> const Schedule& { return e.schedule; }, event);
}

std::string& name_of(EventConfig& event) {
  return std::visit([](auto& e) -> std::string& { return e.name; }, event);
}

const std::string& name_of(const EventConfig& event) {
  return std::visit([](const auto& e) -> const std::string& { return e.name; }, event);
}

bool changes_data_or_weights(const EventConfig& event) {
  return std::visit([](const auto& e) { return e.kChanges; }, event);
}

void SwitchEvent::apply(Run& run) const { run.begin_next_phase(); }

void SnapshotEvent::apply(Run& run) const {
  run.write_snapshot(schedule.every ? fmt::format("{}_{}", name, run.step()) : name);
}

template <bool kFrozen>
void FreezingEvent<kFrozen>::apply(Run& run) const {
  for (const auto& pattern : params) run.set_frozen(pattern, kFrozen);
}

template struct FreezingEvent<true>;
template struct FreezingEvent<false>;

}  // namespace mnemo
