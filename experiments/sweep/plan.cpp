#include "experiments/sweep/plan.h"

#include "experiments/run/pack.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <functional>
#include <sstream>
#include <unordered_map>
#include <unordered_set>

namespace mnemo {

namespace {

constexpr double kMaxPoints = 1e5;

/// Settings that no two runs of a sweep may differ in: they change no number, or name the whole.
bool may_be_axis(const std::string& key) {
  const auto top = key.substr(0, key.find('.'));
  for (const auto* fixed : {"name", "group", "run", "device", "threads", "output", "sweep", "slurm"}) {
    if (top == fixed) return false;
  }
  return true;
}

/// The axes of a block and of arguments; what else the arguments set, for all points alike.
struct Grid {
  std::vector<Axis> axes;
  std::vector<std::string> common;

  Axis* axis_of(const std::string& key) {
    const auto found = std::find_if(axes.begin(), axes.end(), [&](const Axis& axis) { return axis.has(key); });
    return found == axes.end() ? nullptr : &*found;
  }
  double size() const {
    double points = 1;
    for (const auto& axis : axes) points *= static_cast<double>(axis.values.size());
    return points;
  }
};

void add_argument(Grid& grid, const std::string& argument, std::vector<std::string>& given) {
  const auto key = argument.substr(0, argument.find('='));
  if (std::find(given.begin(), given.end(), key) != given.end()) refuse_argument(argument, fmt::format("{} is given twice", key));
  given.push_back(key);
  if (key == "run") refuse_argument(argument, "names one run; a sweep names its runs after its axes");
  auto* of_file = grid.axis_of(key);
  if (of_file != nullptr && of_file->keys.size() > 1) {
    refuse_argument(argument,
                    fmt::format("{} is zipped with {} in the file; sweep={{}} leaves the file's axes out", key, fmt::join(of_file->keys, ", ")));
  }
  auto axis = axis_of_argument(argument);
  if (!axis && of_file == nullptr) return void(grid.common.push_back(argument));
  if (!axis) axis = Axis{{key}, {{argument.substr(key.size() + 1)}}};
  if (of_file != nullptr) {
    *of_file = *std::move(axis);
  } else {
    grid.axes.push_back(*std::move(axis));
  }
}

/// A value of an axis as an override, "key=value", and where the file gives it, if it does.
struct Assignment {
  std::string text;
  const config_detail::Node* node;
};

/// Of every axis at a point, which counts with the last axis fastest.
std::vector<Assignment> assignments_at(const Grid& grid, std::size_t point) {
  std::vector<Assignment> assignments;
  for (auto axis = grid.axes.rbegin(); axis != grid.axes.rend(); ++axis) {
    const auto i = point % axis->values.size();
    point /= axis->values.size();
    for (auto k = axis->keys.size(); k-- > 0;) {
      assignments.push_back({axis->keys[k] + "=" + axis->values[i][k], axis->nodes.empty() ? nullptr : &axis->nodes[i][k]});
    }
  }
  std::reverse(assignments.begin(), assignments.end());
  return assignments;
}

/// Throws what is wrong with values of a `sweep:` block at their places in the file, where each line of `error`, which an override of theirs is to
/// blame for, is about one of them.
void blame_file(ConfigSource file, const std::vector<Assignment>& assignments, const std::string& error) {
  std::istringstream lines(error);
  for (std::string line; std::getline(lines, line);) {
    const auto is_of = [&](const Assignment& a) { return a.node != nullptr && line.starts_with("<" + a.text + ">:"); };
    const auto found = std::find_if(assignments.begin(), assignments.end(), is_of);
    if (found == assignments.end()) return;
    file.fail(*found->node, "sweep", line.substr(line.find(": ", found->text.size()) + 2));
  }
  file.throw_if_violated();
}

}  // namespace

SweepPlan plan_sweep(const SweepArguments& arguments, const std::function<EarlierSweep(const std::string& group)>& earlier) {
  auto source = ConfigSource::from_file(arguments.config_path);
  const auto is_of_sweep = [](const std::string& argument) {
    const auto top = argument.substr(0, argument.find_first_of(".="));
    return top == "sweep" || top == "slurm";
  };
  for (const auto& argument : arguments.overrides) {
    if (is_of_sweep(argument)) source.override_with(argument);
  }
  SweepPlan plan;
  Grid grid;
  if (const auto block = source.take("sweep")) grid.axes = axes_of_block(source, *block);
  if (const auto slurm = source.take("slurm")) plan.slurm = source.read_block<SlurmConfig>(*slurm, "slurm");
  if (source.contains("run")) source.fail("run", "names one run; a sweep names its runs after its axes. Take it out");
  source.throw_if_violated();
  std::vector<std::string> given;
  for (const auto& argument : arguments.overrides) {
    if (!is_of_sweep(argument)) add_argument(grid, argument, given);
  }
  for (const auto& keys : arguments.zips) zip_axes(grid.axes, keys);
  for (const auto& axis : grid.axes) {
    for (const auto& key : axis.keys) {
      if (!may_be_axis(key)) throw ConfigError(fmt::format("sweep: {} cannot vary: the runs of a sweep share it", key));
      plan.keys.push_back(key);
    }
  }
  if (grid.size() > kMaxPoints) throw ConfigError(fmt::format("sweep: {:.0f} points; the limit is {:.0f}", grid.size(), kMaxPoints));

  const auto folder = arguments.config_path.parent_path();
  const auto load = [&](std::size_t point) {
    auto overrides = grid.common;
    const auto assignments = assignments_at(grid, point);
    for (const auto& assignment : assignments) overrides.push_back(assignment.text);
    try {
      return load_config(source, folder, overrides, {.with_weights = true, .cores = 1, .named_after = plan.keys});
    } catch (const ConfigError& error) {
      const std::string text = error.what();
      blame_file(source, assignments, text);
      if (text.find("=[") == text.npos || !text.ends_with("got a list")) throw;
      throw ConfigError(text + "; an axis is a list without brackets, as in train.lr=1e-3,3e-3");
    }
  };
  plan.group = *load(0).config.group;
  const auto before = earlier ? earlier(plan.group) : EarlierSweep{};
  for (const auto& key : before.keys) {
    if (std::find(plan.keys.begin(), plan.keys.end(), key) == plan.keys.end()) plan.keys.push_back(key);
  }
  if (plan.keys.empty()) {
    throw ConfigError(
        fmt::format("{}: nothing varies: give an axis such as train.lr=1e-3,3e-3 or seed=range(0,3), or a sweep: block; mnemo train "
                    "trains one run",
                    arguments.config_path.string()));
  }
  std::unordered_map<std::string, std::string> seen;
  std::unordered_set<std::string> names;
  for (std::size_t i = 0; i < static_cast<std::size_t>(grid.size()); ++i) {
    SweepPoint point{load(i), {}, {}};
    auto& config = point.loaded.config;
    if (!config.output.pickle) config.output.pickle = "none";
    const auto& id = point.id = identity(config);
    if (const auto known = before.runs.find(id); known != before.runs.end()) config.run = known->second;
    if (!names.insert(*config.run).second && seen.count(id) == 0) {
      throw ConfigError(fmt::format("sweep: two points would be called {}: an axis has no effect on one of them", *config.run));
    }
    if (const auto [other, fresh] = seen.emplace(id, *config.run); !fresh) {
      std::vector<std::string> values;
      for (auto& assignment : assignments_at(grid, i)) values.push_back(std::move(assignment.text));
      plan.duplicates.push_back(fmt::format("{} is the same run as {}", fmt::join(values, ","), other->second));
      continue;
    }
    for (const auto& key : plan.keys) point.values.push_back(setting_of(config, key));
    plan.points.push_back(std::move(point));
  }
  return plan;
}

std::vector<std::vector<std::size_t>> packs_of(const std::vector<RunConfig>& configs, const std::vector<std::int64_t>& starts, std::size_t max_pack) {
  std::vector<std::vector<std::size_t>> packs;
  std::unordered_map<std::string, std::size_t> open;  // the pack that still takes runs of a kind
  for (std::size_t i = 0; i < configs.size(); ++i) {
    const auto kind = max_pack > 1 ? fmt::format("{} {}", starts[i], kind_of_pack(configs[i])) : std::string();
    const auto found = open.find(kind);
    if (max_pack > 1 && found != open.end() && packs[found->second].size() < max_pack) {
      packs[found->second].push_back(i);
    } else {
      open[kind] = packs.size();
      packs.push_back({i});
    }
  }
  return packs;
}

}  // namespace mnemo
