#include "experiments/config/config.h"

#include "core/files.h"
#include "core/npy.h"
#include "core/threads.h"
#include "experiments/config/check.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <map>
#include <set>

namespace mnemo {

namespace {

constexpr std::size_t kMaxNameLength = 100;

bool may_stand_in_run_name(char c) {
  return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || std::string_view("._=,+-").find(c) != std::string_view::npos;
}

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
  static const std::set<std::string_view> kWhole{"name", "group", "run", "device", "threads", "train.steps"};
  return kWhole.count(path) != 0 || path == "output" || path.starts_with("output.");
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

/// "model.heads=2,train.lr=0.001": settings in the order of the configuration's fields, as a file name.
std::string name_after(const RunConfig& config, const std::vector<std::string>& settings) {
  const auto root = config_detail::to_node(config);
  const auto leaves = config_detail::flatten(root);
  std::map<std::pair<std::ptrdiff_t, std::string>, std::string> parts;  // by field order and key
  for (const auto& key : settings) {
    const auto value = value_at(root, key);
    if (value.empty()) continue;
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

/// Fills in what follows from other settings and from the files that they name; says where that cannot be done.
class Resolver {
 public:
  Resolver(ConfigSource& source, RunConfig& config, fs::path folder, const std::vector<std::string>& overridden, const Reading& reading)
      : source_(source), config_(config), folder_(std::move(folder)), overridden_(overridden), reading_(reading) {}

  void resolve() {
    resolve_data_files();
    for (std::size_t i = 0; i < config_.events.size(); ++i) resolve_event(i);
    if (config_.threads == 0) config_.threads = threads_for(config_, reading_.cores > 0 ? reading_.cores : available_cores());
    const auto resolve_model = [](auto& model) {
      if constexpr (requires { model.resolve(); }) model.resolve();
    };
    std::visit(resolve_model, config_.model);
    if (!config_.group) config_.group = config_.name;
    if (config_.run) return;
    auto settings = reading_.named_after.value_or(overridden_);
    if (!reading_.named_after) std::erase_if(settings, is_incidental);
    const auto named = name_after(config_, settings);
    config_.run = named.empty() ? config_.name : named;
  }

 private:
  /// The absolute path of a file that a setting names: one of the file beside it, one of an override in the working directory.
  std::string absolute(const std::string& path, const std::string& file) const {
    const auto sets_it = [&](const std::string& given) { return path == given || path.starts_with(given + "."); };
    const bool is_override = std::any_of(overridden_.begin(), overridden_.end(), sets_it);
    return canonical_path((is_override ? fs::path() : folder_) / expanded_path(file)).string();
  }

  /// K and L of own data are those of their files.
  void resolve_data_files() {
    auto& data = config_.data;
    const auto look = [&](const char* path, std::optional<std::string>& file, std::size_t dimensions, auto&& accept) {
      if (!file || !source_.clean(path)) return;
      if (file->empty()) return source_.fail(path, "names no file");
      try {
        file = absolute(path, *file);
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

  void resolve_event(std::size_t i) {
    auto& event = config_.events[i];
    const auto path = fmt::format("events.{}", i);
    if (!source_.clean(path + ".kind")) return;
    if (name_of(event).empty()) name_of(event) = kind_of(event);
    auto* from = from_of(event);
    if (from == nullptr || !names_a_file(*from) || !source_.clean(path + ".from")) return;
    try {
      *from = absolute(path + ".from", *from);
    } catch (const Error& error) {
      source_.fail(path + ".from", error.what());
    }
  }

  ConfigSource& source_;
  RunConfig& config_;
  fs::path folder_;
  const std::vector<std::string>& overridden_;
  const Reading& reading_;
};

}  // namespace

Rule run_name() {
  const auto holds = [](std::string_view name) {
    return !name.empty() && name.size() <= kMaxNameLength && name[0] != '.' && std::all_of(name.begin(), name.end(), may_stand_in_run_name);
  };
  const auto wants = fmt::format("a file name (letters, digits, any of ._=,+-; no dot first; at most {})", kMaxNameLength);
  return {wants, nullptr, holds, nullptr, {}};
}

LoadedConfig load_config(ConfigSource source, const fs::path& folder, const std::vector<std::string>& overrides, const Reading& reading) {
  std::vector<std::string> overridden;
  for (const auto& assignment : overrides) {
    const auto paths = source.override_with(assignment);
    overridden.insert(overridden.end(), paths.begin(), paths.end());
  }
  if (const auto sweep = source.take("sweep"); sweep && !sweep->children.empty()) {
    source.fail(*sweep, "sweep", "describes many runs: mnemo sweep trains them; sweep={} leaves the block out and trains one");
  }
  if (const auto slurm = source.take("slurm")) source.read_block<SlurmConfig>(*slurm, "slurm");
  LoadedConfig loaded{source.read<RunConfig>()};
  auto& config = loaded.config;
  loaded.threads_given = config.threads > 0;
  Resolver(source, config, folder, overridden, reading).resolve();
  check(source, config, reading.with_weights);
  if (std::find(overridden.begin(), overridden.end(), "seed") != overridden.end()) refuse_seed_without_effect(source, config);
  source.throw_if_violated();
  return loaded;
}

LoadedConfig load_config(const fs::path& path, const std::vector<std::string>& overrides, bool with_weights) {
  return load_config(ConfigSource::from_file(path), path.parent_path(), overrides, {.with_weights = with_weights, .cores = 0, .named_after = {}});
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
    const bool grows = path == "train.steps" && new_config.train.steps > old_config.train.steps, falls = old_config.train.schedule == "cosine";
    if ((grows && !falls) || (is_incidental(path) && path != "train.steps")) return;
    found.push_back(fmt::format("{}: {} -> {}{}", path, before, after,
                                grows ? fmt::format(" (train.schedule: cosine took its learning rates on a way to 0 at {})", before) : ""));
  };
  for (const auto& [path, value] : new_leaves) compare(path);
  for (const auto& [path, value] : old_leaves) {
    if (new_values.count(path) == 0) compare(path);
  }
  return found;
}

std::string identity(const RunConfig& config) {
  Hasher hasher;
  for (const auto& [path, value] : flatten(with_seeds(config))) {
    if (!is_incidental(path) || path == "train.steps") hasher.update(path + "=" + value + "\n");
  }
  return hasher.digest();
}

std::string setting_of(const RunConfig& config, std::string_view path) { return value_at(config_detail::to_node(config), path); }

}  // namespace mnemo
