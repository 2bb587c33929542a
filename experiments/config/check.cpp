#include "experiments/config/check.h"

#include "core/safetensors.h"
#include "experiments/record/notebook_pickle.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>
#include <map>
#include <set>

namespace mnemo {

namespace {

constexpr double kMaxTableBits = 0x1p40, kMaxAttentionBytes = 0x1p28;

/// 20 of "often_20".
std::optional<std::int64_t> number_at_end(std::string_view name) {
  const auto digits = name.substr(name.rfind('_') + 1);
  std::int64_t number = 0;
  const auto [end, problem] = std::from_chars(digits.data(), digits.data() + digits.size(), number);
  if (problem != std::errc{} || end != digits.data() + digits.size()) return {};
  return number;
}

/// Everything about a configuration that no single field shows. Each check reports at the field a user would change.
class Checker {
 public:
  Checker(ConfigSource& source, const RunConfig& config, bool with_weights) : source_(source), config_(config), with_weights_(with_weights) {}

  void check() {
    check_group();
    check_device();
    check_precision();
    check_sizes();
    check_model();
    check_stop_if();
    check_warmup();
    check_measures();
    for (std::size_t i = 0; i < config_.events.size(); ++i) check_event(i);
    check_pickles();
    for (std::size_t i = 0; i < config_.events.size(); ++i) check_references(i);
    if (source_.clean("events") && source_.clean("train")) check_outputs();
  }

 private:
  /// Folders that scripts keep in the cache.
  void check_group() {
    for (const auto* reserved : {"processed_data", "zipf_figs"}) {
      const char* path = source_.contains("group") ? "group" : "name";
      if (config_.group == reserved)
        source_.fail(path, fmt::format("'{}' is a folder that analysis scripts keep in the cache; choose another", reserved));
    }
  }

  void check_device() {
    const auto& device = config_.device;
    const auto number = device.starts_with("cuda:") ? device.substr(5) : std::string();
    const bool numbered = !number.empty() && number.size() <= 3 && (number == "0" || number[0] != '0') &&
                          std::all_of(number.begin(), number.end(), [](char c) { return c >= '0' && c <= '9'; });
    if (device != "auto" && device != "cpu" && device != "cuda" && !numbered) {
      source_.fail("device", fmt::format("must be auto, cpu, cuda or cuda:N; got '{}'", device));
    }
    if (config_.precision == "tf32" && device == "cpu") source_.fail("precision", "tf32 is of GPUs only; on the CPU fp32 is as fast");
    if (config_.precision == "fp64" && device.starts_with("cuda")) {
      source_.fail("precision", "fp64 runs on the CPU only; device is " + device);
    }
  }

  /// What model and optimizer compute with: as `precision` holds it, a number must stay finite, not vanish, and obey its rules.
  void check_precision() {
    if (config_.precision == "fp64") return;
    using Limits = std::numeric_limits<float>;
    const auto look = [&](const std::string& path, double value, const Rules& rules) {
      const auto held = static_cast<double>(static_cast<float>(value));
      if (!source_.clean(path)) return;
      const auto text = config_detail::to_flow(config_detail::scalar_node(value));
      if (!std::isfinite(held) || (held == 0) != (value == 0)) {
        return source_.fail(path, fmt::format("{} is {} in fp32, whose numbers reach from {:.2g} to {:.2g}", text, held == 0 ? "0" : "infinite",
                                              Limits::denorm_min(), Limits::max()));
      }
      for (const auto& rule : rules) {
        if (rule.number && !rule.number(held)) source_.fail(path, rule.violated_by(fmt::format("{}, which fp32 rounds to {}", text, held)));
      }
    };
    config_detail::for_each_real(config_.train, "train", {}, look);
    config_detail::for_each_real(config_.model, "model", {}, look);
  }

  void check_sizes() {
    const auto& data = config_.data;
    if (data.num_sequences < 1 && data.file) source_.fail("data.file", "holds no sequences");
    if (data.length < 2 && source_.clean("data.length")) {
      source_.fail(
          data.file ? "data.file" : "data.length",
          fmt::format("{} at least 2{}: each bit is predicted from those before it, and one bit leaves nothing to predict",
                      data.file ? "the length of its sequences must be" : "must be", data.file ? fmt::format(", it is {}", data.length) : ""));
    }
    const double bits = static_cast<double>(data.num_sequences) * static_cast<double>(data.length);
    if (bits > kMaxTableBits) {
      source_.fail("data.num_sequences",
                   fmt::format("{} sequences of {} bits are {:.1e} bits; the limit is 2^40 = 1.1e12", data.num_sequences, data.length, bits));
    }
    if (data.length > 65536) source_.fail("data.file", "sequences are longer than 65536 bits");
  }

  void check_model() {
    const auto problems = std::visit([&](const auto& model) { return model.problems(config_.data.length); }, config_.model);
    for (const auto& [field, what] : problems) source_.fail("model." + field, what);
  }

  void check_stop_if() {
    const auto& train = config_.train;
    if (!train.stop_if || train.stop_if->after <= train.steps || !source_.clean("train.steps") || !source_.clean("train.stop_if")) return;
    source_.fail("train.stop_if.after", fmt::format("{} is beyond the last step ({})", train.stop_if->after, train.steps));
  }

  void check_warmup() {
    const auto& train = config_.train;
    if (train.warmup <= train.steps || !source_.clean("train.steps") || !source_.clean("train.warmup")) return;
    source_.fail("train.warmup", fmt::format("{} is beyond the last step ({})", train.warmup, train.steps));
  }

  void check_measures() {
    const auto& eval = config_.eval;
    const auto length = config_.data.length;
    if (eval.completion && eval.completion->prefix >= length && source_.clean("data.length") && source_.clean("eval.completion")) {
      source_.fail("eval.completion.prefix", fmt::format("must be less than the length of a sequence ({}), got {}", length, eval.completion->prefix));
    }
    if (eval.attention.empty() || !source_.clean("model") || !source_.clean("data") || !source_.clean("eval")) return;
    const auto facts = facts_of(config_);
    if (std::set(eval.attention.begin(), eval.attention.end()).size() < eval.attention.size())
      source_.fail("eval.attention", "names a measure twice");
    if (facts.attention_heads == 0) source_.fail("eval.attention", fmt::format("{} has no attention maps", facts.kind));
    const auto maps = static_cast<double>(facts.attention_layers * facts.attention_heads) * static_cast<double>(length) *
                      static_cast<double>(length) * sizeof(float);
    if (maps > kMaxAttentionBytes) {
      source_.fail("eval.attention", fmt::format("the attention maps of one sequence would take {:.1e} bytes; the limit is 2^28", maps));
    }
  }

  void check_event(std::size_t i) {
    const auto& event = config_.events[i];
    const auto path = fmt::format("events.{}", i);
    if (!source_.clean(path + ".kind")) return;
    if (const auto [taken, fresh] = names_.emplace(name_of(event), i); !fresh && source_.clean(path + ".name")) {
      source_.fail(path + ".name", fmt::format("events.{} is named '{}' too; give one of them another name", taken->second, name_of(event)));
    }
    check_schedule(path, event);
    const auto needs = needs_of(event);
    if (needs.params != nullptr) check_params(path + ".params", *needs.params);
    if (needs.freeze != nullptr) {
      check_params(path + ".freeze", *needs.freeze);
      check_leaves_something(path + ".freeze", *needs.freeze);
    }
    if (needs.clear_memory != nullptr) check_memory(path + ".clear_memory", *needs.clear_memory);
    if (needs.hidden_layers) check_has_hidden_layers(path + ".kind");
  }

  void check_schedule(const std::string& path, const EventConfig& event) {
    const auto& schedule = schedule_of(event);
    const auto steps = config_.train.steps;
    if (!source_.clean(path + ".at") || !source_.clean(path + ".every")) return;
    if (schedule.at && schedule.every) return source_.fail(path, "has both at and every; give one");
    if (!schedule.at && !schedule.every) {
      if (source_.clean(path)) source_.fail(path, "needs a time: at or every");
      return;
    }
    if (!source_.clean("train.steps")) return;
    if (schedule.every && *schedule.every >= steps) {
      source_.fail(path + ".every", fmt::format("{} never comes: the run has {} steps", *schedule.every, steps));
    }
    if (!schedule.at) return;
    const auto step = schedule.at->step(steps);
    if (step > steps) {
      source_.fail(path + ".at", fmt::format("{} is beyond the last step ({})", step, steps));
    } else if (step == steps && (std::holds_alternative<SwitchEvent>(event) || std::holds_alternative<FreezeEvent>(event) ||
                                 std::holds_alternative<UnfreezeEvent>(event))) {
      const auto kind = kind_of(event);
      source_.fail(path + ".at", fmt::format("{} {} at the last step ({}) trains nothing after it", kind.starts_with('u') ? "an" : "a", kind, steps));
    }
  }

  void check_params(const std::string& path, const std::vector<std::string>& params) {
    if (!source_.clean("model") || !source_.clean(path)) return;
    const auto specs = facts_of(config_).parameters;
    for (std::size_t j = 0; j < params.size(); ++j) {
      if (matching_parameters(specs, params[j]).empty()) {
        source_.fail(fmt::format("{}.{}", path, j), fmt::format("{} has no parameters '{}'; its groups are {}", facts_of(config_).kind, params[j],
                                                                fmt::join(parameter_groups(specs), ", ")));
      }
    }
  }

  void check_memory(const std::string& path, std::optional<bool> clear_memory) {
    if (!clear_memory || facts_of(config_).has_memory || !source_.clean("model") || !source_.clean(path)) return;
    source_.fail(path, facts_of(config_).task == Task::sequences ? "model.objective: retrieval keeps no queue; its memory is the current sequences"
                                                                 : fmt::format("{} has no memory", facts_of(config_).kind));
  }

  void check_leaves_something(const std::string& path, const std::vector<std::string>& frozen) {
    if (!source_.clean("model")) return;
    const auto specs = facts_of(config_).parameters;
    if (matching_parameters(specs, frozen).size() == specs.size()) source_.fail(path, "freezes every parameter: nothing is left to learn");
  }

  void check_has_hidden_layers(const std::string& path) {
    if (facts_of(config_).hidden_widths.empty()) source_.fail(path, fmt::format("{} has no hidden layers", facts_of(config_).kind));
  }

  // ---- what events say of each other: where those that matter are right by themselves

  bool timed(std::size_t i) const {
    const auto path = fmt::format("events.{}", i);
    return source_.clean(path + ".kind") && source_.clean(path + ".at") && source_.clean(path + ".every") && source_.clean("train.steps");
  }

  /// Whether it is certain when all events of a kind happen, and what snapshots are called.
  template <class Event>
  bool all_certain() const {
    for (std::size_t i = 0; i < config_.events.size(); ++i) {
      const auto path = fmt::format("events.{}", i);
      if (!source_.clean(path + ".kind")) return false;
      const bool named = !std::is_same_v<Event, SnapshotEvent> || source_.clean(path + ".name");
      if (std::holds_alternative<Event>(config_.events[i]) && !(timed(i) && named)) return false;
    }
    return source_.clean("train.steps");
  }

  /// When an event happens first: its step, and its place among the events of that step.
  using Moment = std::pair<std::int64_t, std::size_t>;
  Moment first_moment(std::size_t i) const { return {schedule_of(config_.events[i]).first(config_.train.steps), i}; }

  void check_references(std::size_t i) {
    const auto path = fmt::format("events.{}", i);
    if (!source_.clean(path + ".kind")) return;
    const auto needs = needs_of(config_.events[i]);
    if (needs.from != nullptr) check_from(path, needs, i);
    if (needs.on != nullptr) check_sets(path + ".on", *needs.on, i);
  }

  void check_from(const std::string& path, const Needs& needs, std::size_t i) {
    const auto& from = *needs.from;
    if (!source_.clean(path + ".from")) return;
    if (from.empty()) {
      if (!source_.clean(path)) return;  // one that is misspelt, perhaps
      source_.fail(source_.contains(path + ".from") ? path + ".from" : path, "needs from: an earlier snapshot of this run, or a safetensors file");
    } else if (!names_a_file(from)) {
      if (timed(i) && all_certain<SnapshotEvent>()) check_snapshot(path + ".from", from, first_moment(i));
    } else if (with_weights_ && source_.clean(path + ".params")) {
      check_weights(path + ".from", from, needs.params != nullptr ? *needs.params : std::vector<std::string>{"*"});
    }
  }

  /// Reads the file whole: a few milliseconds now rather than a failure in the middle of a run.
  void check_weights(const std::string& path, const std::string& name, const std::vector<std::string>& params) {
    if (!source_.clean("model") || !source_.clean("data") || !source_.clean("precision")) return;
    try {
      const auto file = Safetensors::read(name);
      const auto specs = facts_of(config_).parameters;
      const auto dtype = config_.precision == "fp64" ? Dtype::f64 : Dtype::f32;
      for (const auto index : matching_parameters(specs, params)) {
        const auto& [found, shape, data] = file.at(specs[index].name);
        if (found == dtype && shape == specs[index].shape) continue;
        return source_.fail(path, fmt::format("{}: tensor '{}' is {} ({}), this model's is {} ({})", name, specs[index].name, name_of(found),
                                              fmt::join(shape, ", "), name_of(dtype), fmt::join(specs[index].shape, ", ")));
      }
    } catch (const Error& error) {
      source_.fail(path, error.what());
    }
  }

  /// When an event takes the snapshot of this name, if it does.
  std::optional<Moment> moment_of_snapshot(std::size_t i, std::string_view name) const {
    const auto* snapshot = std::get_if<SnapshotEvent>(&config_.events[i]);
    if (snapshot == nullptr) return {};
    const auto steps = config_.train.steps;
    const auto step = snapshot->schedule.every ? number_at_end(name) : snapshot->schedule.first(steps);
    if (!step || !snapshot->schedule.due(*step, steps) || snapshot->snapshot(*step) != name) return {};
    return Moment{*step, i};
  }

  void check_snapshot(const std::string& path, const std::string& from, Moment now) {
    std::vector<std::string> known;
    for (std::size_t i = 0; i < config_.events.size(); ++i) {
      const auto* snapshot = std::get_if<SnapshotEvent>(&config_.events[i]);
      if (snapshot == nullptr) continue;
      known.push_back(snapshot->schedule.every ? fmt::format("{}_<step> every {}", snapshot->name, *snapshot->schedule.every) : snapshot->name);
      const auto taken = moment_of_snapshot(i, from);
      if (taken && *taken < now) return;
      if (!taken) continue;
      return source_.fail(path, taken->first == now.first
                                    ? fmt::format("snapshot '{}' is taken after this event: it stands later in the file", from)
                                    : fmt::format("snapshot '{}' is taken at step {}, after this event at step {}", from, taken->first, now.first));
    }
    source_.fail(path, fmt::format("this run takes no snapshot '{}'; it takes {}. A file has a '/' in its name or ends in .safetensors", from,
                                   known.empty() ? "none" : fmt::format("{}", fmt::join(known, ", "))));
  }

  /// The number of the current phase when event i happens first: of the switches at its step those count that stand before it.
  std::int64_t phase_at(std::size_t i) const {
    const auto step = first_moment(i).first;
    std::int64_t phase = 0;
    for (std::size_t j = 0; j < config_.events.size(); ++j) {
      const auto& event = config_.events[j];
      if (std::holds_alternative<SwitchEvent>(event)) phase += schedule_of(event).occurrences(config_.train.steps, j < i ? step : step - 1);
    }
    return phase;
  }

  void check_sets(const std::string& path, const std::vector<std::string>& on, std::size_t i) {
    if (!source_.clean(path)) return;
    const bool certain = timed(i) && all_certain<SwitchEvent>();
    const auto last_phase = certain ? phase_at(i) : std::numeric_limits<std::int64_t>::max();
    const bool novel = config_.eval.novel > 0;
    for (std::size_t j = 0; j < on.size(); ++j) {
      const auto phase = number_at_end(on[j]);
      const bool is_phase = phase && *phase <= last_phase && on[j] == fmt::format("phase_{}", *phase);
      if (on[j] == "train" || (on[j] == "novel" && novel) || is_phase) continue;
      const auto phases = !certain ? "phase_<k>" : last_phase == 0 ? "phase_0" : fmt::format("phase_0 to phase_{}", last_phase);
      const auto when = certain ? fmt::format(" at step {}", first_moment(i).first) : "";
      source_.fail(fmt::format("{}.{}", path, j), fmt::format("no set '{}'{}; there are train, {}{}", on[j], when, phases, novel ? ", novel" : ""));
    }
  }

  /// `x` every 10 steps and `x_20` once would write one file.
  void check_outputs() {
    for (std::size_t i = 0; i < config_.events.size(); ++i) {
      const auto& once = config_.events[i];
      const auto number = number_at_end(name_of(once));
      if (!schedule_of(once).at || !number) continue;
      const auto files = outputs_of(once, first_moment(i).first);
      for (std::size_t j = 0; j < config_.events.size(); ++j) {
        const auto& often = config_.events[j];
        if (files.empty() || !schedule_of(often).every || !schedule_of(often).due(*number, config_.train.steps)) continue;
        if (outputs_of(often, *number) != files) continue;
        source_.fail(fmt::format("events.{}", i), fmt::format("writes {}, as events.{} does at step {}; give it another name", files[0], j, *number));
      }
    }
  }

  /// Where pickles are asked for, and not merely written because everything fits.
  void check_pickles() {
    const auto& output = config_.output;
    const bool asked = output.pickle ? *output.pickle != "none" : output.epoch_steps || output.pickle_rows;
    if (!asked || !source_.clean("train") || !source_.clean("eval") || !source_.clean("events") || !source_.clean("output")) return;
    for (const auto& [key, what] : notebook_problems(config_)) source_.fail("output." + key, what);
  }

  ConfigSource& source_;
  const RunConfig& config_;
  bool with_weights_;
  std::map<std::string, std::size_t> names_;
};

}  // namespace

void check(ConfigSource& source, const RunConfig& config, bool with_weights) { Checker(source, config, with_weights).check(); }

}  // namespace mnemo
