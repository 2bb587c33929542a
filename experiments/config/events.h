#pragma once

#include "core/config.h"

#include <cstdint>
#include <limits>
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
  std::int64_t occurrences(std::int64_t steps, std::int64_t last = std::numeric_limits<std::int64_t>::max()) const;  ///< up to step `last`
  std::int64_t first(std::int64_t steps) const { return at ? at->step(steps) : *every; }
};

/// What an event needs of the model, of the sets and of the events before it: the settings that say so, null where it has none such.
struct Needs {
  const std::string* from = nullptr;                  ///< weights: an earlier snapshot or a file, with a tensor of each of `params`
  const std::vector<std::string>* params = nullptr;   ///< parameters, by group or name pattern
  const std::vector<std::string>* freeze = nullptr;   ///< the same, of which some must be left to train
  const std::vector<std::string>* on = nullptr;       ///< sets that are scored
  const std::optional<bool>* clear_memory = nullptr;  ///< a memory, where it has a value
  bool hidden_layers = false;

  const std::vector<std::string>* parameters() const { return params != nullptr ? params : freeze; }
};

using Files = std::vector<std::string>;

/// What all events have. Each kind is one struct more: its settings, and what it does to a run (apply).
struct Event {
  static constexpr bool kChanges = false;  ///< changes data or weights, so that the step is evaluated before and after it
  Schedule schedule;
  std::string name;
  Needs needs() const { return {}; }
  /// The files (or the folder) that it writes in the run directory at a step, whole; some events append to series instead.
  Files outputs(std::int64_t) const { return {}; }
};

/// Redraws every bit; probabilities stay; presentations restart at 0; the optimizer goes on unless it is reset. A model's memory
/// is cleared unless said otherwise.
struct SwitchEvent : Event {
  static constexpr std::string_view kKind = "switch";
  static constexpr bool kChanges = true;
  bool reset_optimizer = false;
  std::optional<bool> clear_memory;

  template <class Self, class Visit>
  static void fields(Self& self, Visit&& visit) {
    Schedule::fields(self.schedule, visit);
    visit("name", self.name, "default: the kind");
    visit("reset_optimizer", self.reset_optimizer, "forget Adam's moments and step counts");
    visit("clear_memory", self.clear_memory, "of a model with a memory: false keeps what is stored; null = true");
  }
  Needs needs() const { return {.clear_memory = &clear_memory}; }
  void apply(Run& run) const;
};

/// Writes the weights to snapshots/<name>.safetensors (with `every`: <name>_<step>).
struct SnapshotEvent : Event {
  static constexpr std::string_view kKind = "snapshot";

  template <class Self, class Visit>
  static void fields(Self& self, Visit&& visit) {
    Schedule::fields(self.schedule, visit);
    visit("name", self.name, "names the file; default: the kind", file_name());
  }
  std::string snapshot(std::int64_t step) const;  ///< what `from` calls it
  Files outputs(std::int64_t step) const;
  void apply(Run& run) const;
};

/// Stops or restarts the training of parameters, by group (c_attn, mlp, ...) or name pattern (linear_modules.*.weight). Adam's state of
/// frozen parameters is kept and does not move.
template <bool kFrozen>
struct FreezingEvent : Event {
  static constexpr std::string_view kKind = kFrozen ? "freeze" : "unfreeze";
  std::vector<std::string> params;
  bool reset_optimizer = false;

  template <class Self, class Visit>
  static void fields(Self& self, Visit&& visit) {
    Schedule::fields(self.schedule, visit);
    visit("name", self.name, "default: the kind");
    visit("params", self.params, "groups, or names with * for any characters", non_empty());
    visit("reset_optimizer", self.reset_optimizer, "forget Adam's moments and step counts of these parameters");
  }
  Needs needs() const { return {.params = &params}; }
  void apply(Run& run) const;
};
using FreezeEvent = FreezingEvent<true>;
using UnfreezeEvent = FreezingEvent<false>;

constexpr const char* kFromHelp = "an earlier snapshot of this run, or a safetensors file (a '/' in it, or this ending)";

/// Puts weights of a snapshot or file in place of the present ones; with `at: 0` a warm start.
struct LoadEvent : Event {
  static constexpr std::string_view kKind = "load";
  static constexpr bool kChanges = true;
  std::string from;
  std::vector<std::string> params{"*"};
  bool reset_optimizer = false;

  template <class Self, class Visit>
  static void fields(Self& self, Visit&& visit) {
    Schedule::fields(self.schedule, visit);
    visit("name", self.name, "default: the kind");
    visit("from", self.from, kFromHelp);
    visit("params", self.params, "groups, or names with * for any characters", non_empty());
    visit("reset_optimizer", self.reset_optimizer, "forget Adam's moments and step counts of these parameters");
  }
  Needs needs() const { return {.from = &from, .params = &params}; }
  void apply(Run& run) const;
};

// The rest act on a copy: the run's own bytes are the same without them (experiments/run/probes.cpp).

/// Scores a copy that has some weights of a snapshot or file: eval/<name>.<set>/.
struct SwapTestEvent : Event {
  static constexpr std::string_view kKind = "swap_test";
  std::string from;
  std::vector<std::string> params, on;

  template <class Self, class Visit>
  static void fields(Self& self, Visit&& visit) {
    Schedule::fields(self.schedule, visit);
    visit("name", self.name, "names the folders; default: the kind", file_name());
    visit("from", self.from, kFromHelp);
    visit("params", self.params, "groups, or names with * for any characters", non_empty());
    visit("on", self.on, "sets to score: train, phase_<k>, novel; [] = all that there are");
  }
  Needs needs() const { return {.from = &from, .params = &params, .on = &on}; }
  void apply(Run& run) const;
};

/// Every subset of the model's groups taken from a snapshot or file, the others as they are, scored on the sequences of the phase before
/// (old), of this phase (new) and on novel ones: transplant/<name>.csv (with `every`: <name>_<step>).
struct TransplantEvent : Event {
  static constexpr std::string_view kKind = "transplant";
  std::string from;
  std::int64_t stride = 10;

  template <class Self, class Visit>
  static void fields(Self& self, Visit&& visit) {
    Schedule::fields(self.schedule, visit);
    visit("name", self.name, "names the file; default: the kind", file_name());
    visit("from", self.from, kFromHelp);
    visit("stride", self.stride, "scores every n-th sequence", at_least(1));
  }
  Needs needs() const { return {.from = &from}; }
  Files outputs(std::int64_t step) const;
  void apply(Run& run) const;
};

/// How fast does this network learn sequences it has never seen? A copy, with some groups frozen and a fresh Adam (the run's settings, at the
/// learning rate train.lr, without warm-up and schedule), is trained on them, drawn uniformly, until the mean accuracy of its last 10 batches passes
/// `until`: probes/<name>.<step>.json and .accuracy.npy.
struct ForkProbeEvent : Event {
  static constexpr std::string_view kKind = "fork_probe";
  std::vector<std::string> freeze;
  std::int64_t sequences = 100, max_steps = 10000;
  double until = 0.8;
  std::uint32_t seed = 0;

  template <class Self, class Visit>
  static void fields(Self& self, Visit&& visit) {
    Schedule::fields(self.schedule, visit);
    visit("name", self.name, "names the files; default: the kind", file_name());
    visit("freeze", self.freeze, "groups or name patterns that the copy does not train");
    visit("sequences", self.sequences, "novel sequences to learn", in_range(1, 1 << 24));
    visit("until", self.until, "accuracy over 10 batches that ends it", in_range(0, 1));
    visit("max_steps", self.max_steps, "steps after which it is given up", in_range(1, 1e9));
    visit("seed", self.seed, "seed of the novel sequences and their draws");
  }
  Needs needs() const { return {.freeze = &freeze}; }
  Files outputs(std::int64_t step) const;
  void apply(Run& run) const;
};

/// Hidden layers on novel sequences at every n-th position: features/<name>.<step>/layer_<j>.npy (S, positions, width).
struct FeaturesEvent : Event {
  static constexpr std::string_view kKind = "features";
  std::int64_t sequences = 1000, stride = 4;
  std::uint32_t seed = 0;

  template <class Self, class Visit>
  static void fields(Self& self, Visit&& visit) {
    Schedule::fields(self.schedule, visit);
    visit("name", self.name, "names the folder; default: the kind", file_name());
    visit("sequences", self.sequences, "novel sequences S", in_range(1, 1 << 24));
    visit("stride", self.stride, "every n-th position", at_least(1));
    visit("seed", self.seed, "seed of the novel sequences");
  }
  Needs needs() const { return {.hidden_layers = true}; }
  Files outputs(std::int64_t step) const;
  void apply(Run& run) const;
};

using EventConfig =
    std::variant<SwitchEvent, SnapshotEvent, FreezeEvent, UnfreezeEvent, LoadEvent, SwapTestEvent, TransplantEvent, ForkProbeEvent, FeaturesEvent>;

std::string_view kind_of(const EventConfig& event);
Schedule& schedule_of(EventConfig& event);
const Schedule& schedule_of(const EventConfig& event);
std::string& name_of(EventConfig& event);
const std::string& name_of(const EventConfig& event);
Needs needs_of(const EventConfig& event);
std::string* from_of(EventConfig& event);  ///< null where it needs no weights
bool changes_data_or_weights(const EventConfig& event);
Files outputs_of(const EventConfig& event, std::int64_t step);

/// Whether `from` means a file: it has a '/' or ends in .safetensors.
bool names_a_file(std::string_view from);

}  // namespace mnemo
