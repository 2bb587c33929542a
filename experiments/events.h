#pragma once

#include "core/config.h"

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace mnemo {

class Run;

/// A point of a run: `500` (after that many updates), `50%` of train.steps (rounded down), or `end`.
class When {
 public:
  static constexpr std::string_view kTypeName = "a step, a percentage or end";
  bool from_text(std::string_view text, std::string& problem);
  std::string to_text() const { return text_; }
  std::int64_t step(std::int64_t steps) const;
  bool relative() const { return percent_ >= 0; }  ///< a percentage or `end`: moves with train.steps

 private:
  std::string text_ = "0";
  std::int64_t step_ = 0;
  double percent_ = -1;
};

/// When an event happens: once, or after every n-th update before the last.
struct Schedule {
  std::optional<When> at;
  std::optional<std::int64_t> every;

  template <class Self, class Visit>
  static void fields(Self& self, Visit& visit) {
    visit("at", self.at, "step, percentage of train.steps, or end");
    visit("every", self.every, "instead of at: n, 2n, ... before the last step", at_least(1));
  }
  bool due(std::int64_t step, std::int64_t steps) const;
  std::int64_t occurrences(std::int64_t steps) const;  ///< in a whole run
};

// Each event is one struct: settings, and what it does to a run. `kChanges`: it changes data or weights, so that the step is evaluated
// before and after it.

/// Redraws every bit; probabilities stay; presentations restart at 0; the optimizer goes on. A model's memory is cleared unless said otherwise.
struct SwitchEvent {
  static constexpr std::string_view kKind = "switch";
  static constexpr bool kChanges = true;
  Schedule schedule;
  std::string name;
  std::optional<bool> clear_memory;

  template <class Self, class Visit>
  static void fields(Self& self, Visit&& visit) {
    Schedule::fields(self.schedule, visit);
    visit("name", self.name, "default: the kind");
    visit("clear_memory", self.clear_memory, "of a model with a memory: false keeps what is stored; null = true");
  }
  void apply(Run& run) const;
};

/// Writes the weights to snapshots/<name>.safetensors (with `every`: <name>_<step>).
struct SnapshotEvent {
  static constexpr std::string_view kKind = "snapshot";
  static constexpr bool kChanges = false;
  Schedule schedule;
  std::string name;

  template <class Self, class Visit>
  static void fields(Self& self, Visit&& visit) {
    Schedule::fields(self.schedule, visit);
    visit("name", self.name, "names the file; default: the kind", file_name());
  }
  void apply(Run& run) const;
};

/// Stops or restarts the training of parameters, by group (c_attn, mlp, ...) or name pattern (linear_modules.*.weight). Adam's state of
/// frozen parameters is kept and does not move.
template <bool kFrozen>
struct FreezingEvent {
  static constexpr std::string_view kKind = kFrozen ? "freeze" : "unfreeze";
  static constexpr bool kChanges = false;
  Schedule schedule;
  std::string name;
  std::vector<std::string> params;

  template <class Self, class Visit>
  static void fields(Self& self, Visit&& visit) {
    Schedule::fields(self.schedule, visit);
    visit("name", self.name, "default: the kind");
    visit("params", self.params, "groups, or names with * for any characters", non_empty());
  }
  void apply(Run& run) const;
};
using FreezeEvent = FreezingEvent<true>;
using UnfreezeEvent = FreezingEvent<false>;

using EventConfig = std::variant<SwitchEvent, SnapshotEvent, FreezeEvent, UnfreezeEvent>;

std::string_view kind_of(const EventConfig& event);
const Schedule& schedule_of(const EventConfig& event);
std::string& name_of(EventConfig& event);
const std::string& name_of(const EventConfig& event);
bool changes_data_or_weights(const EventConfig& event);

}  // namespace mnemo
