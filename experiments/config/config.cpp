#include "experiments/config/config.h"

#include "core/files.h"
#include "core/npy.h"
#include "core/safetensors.h"
#include "core/threads.h"
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
constexpr std::size_t kMaxNameLength = 100;

bool may_stand_in_run_name(char c) {
  return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || std::string_view("._=,+-").find(c) != std::string_view::npos;
}

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
  Checker(ConfigSource& source, RunConfig& config, fs::path folder, std::vector<std::string> overridden, bool with_weights)
      : source_(source), config_(config), folder_(std::move(folder)), overridden_(std::move(overridden)), with_weights_(with_weights) {}

  void check() {
    check_unfinished();
    check_device();
    check_precision();
    check_data_files();
    check_sizes();
    check_model();
    check_stop_if();
    check_measures();
    for (std::size_t i = 0; i < config_.events.size(); ++i) check_event(i);
    check_pickles();
    for (std::size_t i = 0; i < config_.events.size(); ++i) check_references(i);
    if (source_.clean("events") && source_.clean("train")) check_outputs();
  }

 private:
  /// Says more than "unknown key" about a block that later versions will read.
  void check_unfinished() {
    if (!source_.contains("sweep")) return;
    source_.fail("sweep",
                 "this version trains one run at a time; take the block out and give one value of each key as an override, "
                 "like train.lr=0.001, which also names the run");
  }

  void check_device() {
    const auto& device = config_.device;
    const auto number = device.starts_with("cuda:") ? device.substr(5) : std::string();
    const bool numbered = !number.empty() && number.size() <= 3 && (number == "0" || number[0] != '0') &&
                          std::all_of(number.begin(), number.end(), [](char c) { return c >= '0' && c <= '9'; });
    if (device != "auto" && device != "cpu" && device != "cuda" && !numbered) {
      source_.fail("device", fmt::format("must be auto, cpu, cuda or cuda:N; got '{}'", device));
    }
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

  /// The absolute path of a file that a setting names: one of the file beside it, one of an override in the working directory.
  std::string located(const std::string& path, const std::string& file) const {
    const auto sets_it = [&](const std::string& given) { return path == given || path.starts_with(given + "."); };
    const bool is_override = std::any_of(overridden_.begin(), overridden_.end(), sets_it);
    return canonical_path((is_override ? fs::path() : folder_) / expanded_path(file)).string();
  }

  /// Reads shapes of own data, and K and L from them.
  void check_data_files() {
    auto& data = config_.data;
    const auto look = [&](const char* path, std::optional<std::string>& file, std::size_t dimensions, auto&& accept) {
      if (!file || !source_.clean(path)) return;
      if (file->empty()) return source_.fail(path, "names no file");
      try {
        file = located(path, *file);
        const auto header = read_npy_header(*file);
        if (header.shape.size() != dimensions) {
          source_.fail(path, fmt::format("{} has shape ({}), expected {}", *file, fmt::join(header.shape, ", "), dimensions == 2 ? "(K, L)" : "(K)"));
        } else {
          accept(header);
        }
      } catch (const Error& error) {
        source_.fail(path, error.what());
      }
    };
    const auto agree = [&](const char* path, std::int64_t& value, std::int64_t found, const std::string& file) {
      if (source_.contains(path) && value != found && source_.clean(path)) {
        source_.fail(path, fmt::format("is {}, but {} has {}", value, file, found));
      }
      value = found;
    };
    look("data.file", data.file, 2, [&](const NpyHeader& header) {
      if (header.dtype == Dtype::f32 || header.dtype == Dtype::f64) {
        source_.fail("data.file", *data.file + " holds floating-point numbers, expected integers 0 and 1");
      }
      agree("data.num_sequences", data.num_sequences, header.shape[0], *data.file);
      agree("data.length", data.length, header.shape[1], *data.file);
    });
    look("data.weights", data.weights, 1, [&](const NpyHeader& header) {
      if (source_.contains("data.zipf_exponent") && data.zipf_exponent != 1) {
        source_.fail("data.zipf_exponent", "has no effect beside data.weights; leave it out");
      }
      if (header.shape[0] != data.num_sequences && source_.clean("data.file")) {
        source_.fail("data.weights", fmt::format("{} holds {} weights for {} sequences", *data.weights, header.shape[0], data.num_sequences));
      }
    });
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

  void check_measures() {
    const auto& eval = config_.eval;
    const auto length = config_.data.length;
    if (eval.completion && eval.completion->prefix >= length && source_.clean("data.length") && source_.clean("eval.completion")) {
      source_.fail("eval.completion.prefix", fmt::format("must be less than the length of a sequence ({}), got {}", length, eval.completion->prefix));
    }
    if (eval.attention.empty() || !source_.clean("model") || !source_.clean("data") || !source_.clean("eval")) return;
    const auto heads = facts_of(config_).attention_heads;
    if (std::set(eval.attention.begin(), eval.attention.end()).size() < eval.attention.size())
      source_.fail("eval.attention", "names a measure twice");
    if (heads == 0) source_.fail("eval.attention", fmt::format("{} has no attention maps", facts_of(config_).kind));
    const auto maps = static_cast<double>(heads) * static_cast<double>(length) * static_cast<double>(length) * sizeof(float);
    if (maps > kMaxAttentionBytes) {
      source_.fail("eval.attention", fmt::format("the attention maps of one sequence would take {:.1e} bytes; the limit is 2^28", maps));
    }
  }

  void check_event(std::size_t i) {
    auto& event = config_.events[i];
    const auto path = fmt::format("events.{}", i);
    if (!source_.clean(path + ".kind")) return;
    if (name_of(event).empty()) name_of(event) = kind_of(event);
    if (const auto [taken, fresh] = names_.emplace(name_of(event), i); !fresh && source_.clean(path + ".name")) {
      source_.fail(path + ".name", fmt::format("events.{} is named '{}' too; give one of them another name", taken->second, name_of(event)));
    }
    check_schedule(path, event);
    const auto check_fields = [&]<class Event>(const Event& e) {
      if constexpr (requires { e.params; }) check_params(path + ".params", e.params);
      if constexpr (requires { e.freeze; }) {
        check_params(path + ".freeze", e.freeze);
        check_leaves_something(path + ".freeze", e.freeze);
      }
      if constexpr (requires { e.clear_memory; }) check_memory(path + ".clear_memory", e.clear_memory);
      if constexpr (std::is_same_v<Event, FeaturesEvent>) check_has_features(path);
    };
    std::visit(check_fields, event);
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

  void check_has_features(const std::string& path) {
    if (facts_of(config_).hidden_widths.empty()) source_.fail(path + ".kind", fmt::format("{} has no hidden layers", facts_of(config_).kind));
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
    const auto check_fields = [&](auto& e) {
      if constexpr (requires { e.from; }) {
        std::vector<std::string> params{"*"};
        if constexpr (requires { e.params; }) params = e.params;
        check_from(path, e.from, params, i);
      }
      if constexpr (requires { e.on; }) check_sets(path + ".on", e.on, i);
    };
    std::visit(check_fields, config_.events[i]);
  }

  void check_from(const std::string& path, std::string& from, const std::vector<std::string>& params, std::size_t i) {
    if (!source_.clean(path + ".from")) return;
    if (from.empty()) {
      if (!source_.clean(path)) return;  // one that is misspelt, perhaps
      source_.fail(source_.contains(path + ".from") ? path + ".from" : path, "needs from: an earlier snapshot of this run, or a safetensors file");
    } else if (names_a_file(from)) {
      try {
        from = located(path + ".from", from);
      } catch (const Error& error) {
        return source_.fail(path + ".from", error.what());
      }
      if (with_weights_ && source_.clean(path + ".params")) check_weights(path + ".from", from, params);
    } else if (timed(i) && all_certain<SnapshotEvent>()) {
      check_snapshot(path + ".from", from, first_moment(i));
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
  RunConfig& config_;
  fs::path folder_;
  std::vector<std::string> overridden_;
  bool with_weights_;
  std::map<std::string, std::size_t> names_;
};

/// Of an override of `seed` beside other seeds that do not follow it: many runs would count as many seeds and be one.
void refuse_seed_without_effect(ConfigSource& source, RunConfig& config) {
  const auto own_data_seed = config.data.seed, own_model_seed = seed_of(config.model);
  if (!source.clean("seed") || !source.clean("data.seed") || !source.clean("model") || !own_data_seed || !own_model_seed) return;
  if (own_data_seed == config.seed && own_model_seed == config.seed) return;
  source.fail("seed", fmt::format("changes no random number: data.seed = {} and model.seed = {} are given; to make them follow it, add "
                                  "data.seed=null model.seed=null",
                                  *own_data_seed, *own_model_seed));
}

/// Whether a setting may differ between two parts of one run, so that it does not name it.
bool is_incidental(std::string_view path) {
  static const std::set<std::string_view> kWhole{"name", "group", "run", "device", "threads", "train.steps", "sweep"};
  return kWhole.count(path) != 0 || path == "output" || path.starts_with("output.") || path.starts_with("slurm.");
}

/// The value of a key as YAML in one line; "" where a later override took the key away.
std::string value_at(const config_detail::Node& root, std::string_view path) {
  if (path.empty()) return config_detail::to_flow(root);
  const auto key = path.substr(0, path.find('.'));
  path.remove_prefix(std::min(path.size(), key.size() + 1));
  for (std::size_t i = 0; i < root.children.size(); ++i) {
    const auto& child = root.children[i];
    if (key == (root.kind == config_detail::Node::Kind::list ? std::to_string(i) : child.key)) return value_at(child, path);
  }
  return {};
}

/// "model.heads=2,train.lr=0.001": the overridden settings in the order of the configuration's fields, as a file name.
std::string name_from_overrides(const RunConfig& config, const std::vector<std::string>& overridden) {
  const auto root = config_detail::to_node(config);
  const auto leaves = config_detail::flatten(root);
  std::map<std::pair<std::ptrdiff_t, std::string>, std::string> parts;  // by field order and key
  for (const auto& key : overridden) {
    const auto value = value_at(root, key);
    if (is_incidental(key) || value.empty()) continue;
    const auto first =
        std::find_if(leaves.begin(), leaves.end(), [&](const auto& leaf) { return leaf.first == key || leaf.first.starts_with(key + "."); });
    parts[{first - leaves.begin(), key}] = key + "=" + value;
  }
  std::string name;
  for (const auto& [order, part] : parts) name += (name.empty() ? "" : ",") + part;
  std::string clean = name;
  std::replace_if(
      clean.begin(), clean.end(), [](char c) { return !may_stand_in_run_name(c); }, '_');
  if (clean == name && name.size() <= kMaxNameLength) return name;
  return clean.substr(0, kMaxNameLength - 9) + "-" + hash_of(name).substr(0, 8);
}

}  // namespace

Rule run_name() {
  const auto holds = [](std::string_view name) {
    return !name.empty() && name.size() <= kMaxNameLength && name[0] != '.' && std::all_of(name.begin(), name.end(), may_stand_in_run_name);
  };
  const auto wants = fmt::format("a file name (letters, digits, any of ._=,+-; no dot first; at most {})", kMaxNameLength);
  return {wants, nullptr, holds, nullptr, {}};
}

LoadedConfig load_config(const fs::path& path, const std::vector<std::string>& overrides, bool with_weights) {
  auto source = ConfigSource::from_file(path);
  std::vector<std::string> overridden;
  for (const auto& assignment : overrides) {
    const auto paths = source.override_with(assignment);
    overridden.insert(overridden.end(), paths.begin(), paths.end());
  }
  LoadedConfig loaded{source.read<RunConfig>()};
  auto& config = loaded.config;
  Checker(source, config, path.parent_path(), overridden, with_weights).check();
  if (std::find(overridden.begin(), overridden.end(), "seed") != overridden.end()) refuse_seed_without_effect(source, config);
  source.throw_if_violated();

  loaded.threads_given = config.threads > 0;
  if (config.threads == 0) config.threads = threads_for(config, available_cores());
  std::visit(
      [](auto& model) {
        if constexpr (requires { model.resolve(); }) model.resolve();
      },
      config.model);
  if (!config.group) config.group = config.name;
  if (!config.run) {
    const auto named = name_from_overrides(config, overridden);
    config.run = named.empty() ? config.name : named;
  }
  return loaded;
}

double num_choices(const RunConfig& config) { return facts_of(config).task == Task::sequences ? static_cast<double>(config.data.num_sequences) : 2; }

std::uint32_t data_seed(const RunConfig& config) { return config.data.seed.value_or(config.seed); }

std::uint32_t model_seed(const RunConfig& config) {
  return std::visit([&](const auto& model) { return model.seed.value_or(config.seed); }, config.model);
}

RunConfig with_seeds(RunConfig config) {
  config.data.seed = data_seed(config);
  seed_of(config.model) = model_seed(config);
  return config;
}

double milliseconds_of_step(const RunConfig& config) {
  const auto& data = config.data;
  const auto predictions = static_cast<double>(config.train.batch_size) * static_cast<double>(data.length - facts_of(config).first_predicted_bit);
  return 1e-6 * predictions * nanoseconds_of_prediction(config.model, data.length, data.num_sequences);
}

std::int64_t threads_for(const RunConfig& config, std::int64_t cores) {
  return std::max<std::int64_t>(1, static_cast<std::int64_t>(std::min(milliseconds_of_step(config), static_cast<double>(cores))));
}

namespace {

/// `config` with the times of events written as in `like` where they mean the same step.
RunConfig with_times_of(const RunConfig& like, RunConfig config) {
  for (std::size_t i = 0; i < std::min(config.events.size(), like.events.size()); ++i) {
    auto& at = schedule_of(config.events[i]).at;
    const auto& other = schedule_of(like.events[i]).at;
    if (at && other && at->step(config.train.steps) == other->step(like.train.steps)) at = other;
  }
  return config;
}

}  // namespace

std::vector<std::string> differences(const RunConfig& old_config, const RunConfig& new_config) {
  const auto old_leaves = flatten(with_times_of(new_config, with_seeds(old_config))), new_leaves = flatten(with_seeds(new_config));
  const std::map<std::string, std::string> old_values(old_leaves.begin(), old_leaves.end()), new_values(new_leaves.begin(), new_leaves.end());
  std::vector<std::string> found;
  const auto value_in = [](const auto& values, const std::string& path) {
    const auto at = values.find(path);
    return at == values.end() ? std::string("(none)") : at->second;
  };
  const auto has_elements = [](const auto& values, const std::string& path) {
    const auto next = values.lower_bound(path + ".");
    return next != values.end() && next->first.starts_with(path + ".");
  };
  const auto compare = [&](const std::string& path) {
    if (has_elements(old_values, path) || has_elements(new_values, path)) return;  // [] here; the elements there say it all
    const auto before = value_in(old_values, path), after = value_in(new_values, path);
    if (before == after) return;
    const bool grows = path == "train.steps" && new_config.train.steps > old_config.train.steps;
    if (grows || (is_incidental(path) && path != "train.steps")) return;
    found.push_back(fmt::format("{}: {} -> {}", path, before, after));
  };
  for (const auto& [path, value] : new_leaves) compare(path);
  for (const auto& [path, value] : old_leaves) {
    if (new_values.count(path) == 0) compare(path);
  }
  return found;
}

}  // namespace mnemo
