#include "experiments/sweep/axes.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>

namespace mnemo {

using config_detail::Node;

namespace {

constexpr double kMaxValues = 1e5;

/// The parts of `text` between commas that stand in no bracket and in no quotes.
std::vector<std::string> split_at_commas(std::string_view text) {
  std::vector<std::string> parts(1);
  int depth = 0;
  char quote = '\0';
  for (const char c : text) {
    if (quote != '\0') {
      if (c == quote) quote = '\0';
    } else if (c == '"' || c == '\'') {
      quote = c;
    } else if (c == '[' || c == '{' || c == '(') {
      ++depth;
    } else if (c == ']' || c == '}' || c == ')') {
      --depth;
    } else if (c == ',' && depth == 0) {
      parts.emplace_back();
      continue;
    }
    parts.back() += c;
  }
  for (auto& part : parts) {
    const auto begin = part.find_first_not_of(' '), end = part.find_last_not_of(' ');
    part = begin == part.npos ? std::string() : part.substr(begin, end - begin + 1);
  }
  return parts;
}

/// The numbers between the brackets of `name(1,2)`; none where `text` is no such call.
std::optional<std::vector<double>> arguments_of(const std::string& argument, std::string_view text, std::string_view name) {
  if (!text.starts_with(name) || !text.substr(name.size()).starts_with('(') || !text.ends_with(')')) return {};
  std::vector<double> numbers;
  for (const auto& part : split_at_commas(text.substr(name.size() + 1, text.size() - name.size() - 2))) {
    double number = 0;
    if (const auto problem = read_number(part, number, {}); !problem.empty()) refuse_argument(argument, fmt::format("{}: {}", name, problem));
    numbers.push_back(number);
  }
  return numbers;
}

std::vector<std::string> range_of(const std::string& argument, const std::vector<double>& numbers) {
  if (numbers.empty() || numbers.size() > 3) refuse_argument(argument, "range takes (end), (begin, end) or (begin, end, step)");
  if (std::any_of(numbers.begin(), numbers.end(), [](double x) { return x != std::floor(x) || std::abs(x) > 1e15; })) {
    refuse_argument(argument, "range takes integers");
  }
  const double begin = numbers.size() > 1 ? numbers[0] : 0, end = numbers[numbers.size() > 1 ? 1 : 0], step = numbers.size() > 2 ? numbers[2] : 1;
  if (step == 0) refuse_argument(argument, "the step of a range must not be 0");
  const double count = std::ceil((end - begin) / step);
  if (count < 1) refuse_argument(argument, "this range holds no number: its end is not part of it");
  if (count > kMaxValues) refuse_argument(argument, fmt::format("a range of {} numbers; the limit is {}", count, kMaxValues));
  std::vector<std::string> values;
  for (double i = 0; i < count; ++i) values.push_back(fmt::format("{}", static_cast<std::int64_t>(begin + i * step)));
  return values;
}

std::vector<std::string> logspace_of(const std::string& argument, const std::vector<double>& numbers) {
  if (numbers.size() != 3) refuse_argument(argument, "logspace takes (low, high, number of points)");
  const double low = numbers[0], high = numbers[1], count = numbers[2];
  if (!(low > 0) || !(high > 0)) refuse_argument(argument, "logspace takes positive ends");
  if (count < 2 || count != std::floor(count) || count > kMaxValues)
    refuse_argument(argument, "logspace takes an integer number of points, at least 2");
  std::vector<std::string> values;
  for (double i = 0; i < count; ++i) {
    const double value = i == 0 ? low : i == count - 1 ? high : low * std::pow(high / low, i / (count - 1));
    values.push_back(config_detail::to_flow(config_detail::scalar_node(std::stod(fmt::format("{:.6g}", value)))));
  }
  return values;
}

}  // namespace

void refuse_argument(const std::string& argument, const std::string& what) { throw ConfigError(fmt::format("<{}>: {}", argument, what)); }

bool Axis::has(std::string_view key) const { return std::find(keys.begin(), keys.end(), key) != keys.end(); }

std::vector<Axis> axes_of_block(ConfigSource& source, const Node& block) {
  std::vector<Axis> axes;
  if (block.kind == Node::Kind::nothing || block.kind == Node::Kind::null) return axes;
  if (block.kind != Node::Kind::map) {
    source.fail(block, "sweep", "expected a map of settings, each with the list of its values");
    return axes;
  }
  const auto add = [&](const Node& place, Axis axis) {
    for (const auto& key : axis.keys) {
      if (std::any_of(axes.begin(), axes.end(), [&](const Axis& other) { return other.has(key); })) {
        return source.fail(place, "sweep", fmt::format("varies {} twice", key));
      }
    }
    axes.push_back(std::move(axis));
  };
  const auto is_list = [&](const Node& values) {
    if (values.kind == Node::Kind::list && !values.children.empty()) return true;
    source.fail(values, "sweep." + values.key, "expected a list of values, at least one");
    return false;
  };
  const auto add_zip = [&](const Node& rows) {
    Axis axis;
    if (!is_list(rows)) return;
    for (std::size_t i = 0; i < rows.children.size(); ++i) {
      const auto& row = rows.children[i];
      const auto path = fmt::format("sweep.zip.{}", i);
      if (row.kind != Node::Kind::map || row.children.empty()) return source.fail(row, path, "expected a map of settings, each with one value");
      std::vector<std::string> keys, values;
      axis.nodes.push_back(row.children);
      for (const auto& child : row.children) {
        keys.push_back(child.key);
        values.push_back(config_detail::to_flow(child));
      }
      if (i == 0) axis.keys = keys;
      if (keys != axis.keys) {
        return source.fail(row, path, fmt::format("has {}; the first point has {}", fmt::join(keys, ", "), fmt::join(axis.keys, ", ")));
      }
      axis.values.push_back(std::move(values));
    }
    add(rows, std::move(axis));
  };
  for (const auto& child : block.children) {
    if (child.key == "zip") {
      add_zip(child);
    } else if (is_list(child)) {
      Axis axis{{child.key}, {}};
      for (const auto& value : child.children) {
        axis.values.push_back({config_detail::to_flow(value)});
        axis.nodes.push_back({value});
      }
      add(child, std::move(axis));
    }
  }
  return axes;
}

std::optional<Axis> axis_of_argument(const std::string& argument) {
  const auto equals = argument.find('=');
  if (equals == argument.npos) return {};  // an override says what is wrong with it
  const auto text = argument.substr(equals + 1);
  Axis axis{{argument.substr(0, equals)}, {}};
  std::vector<std::string> values;
  if (const auto range = arguments_of(argument, text, "range")) {
    values = range_of(argument, *range);
  } else if (const auto logspace = arguments_of(argument, text, "logspace")) {
    values = logspace_of(argument, *logspace);
  } else {
    values = split_at_commas(text);
    if (values.size() == 1) return {};
  }
  for (auto& value : values) {
    if (value.empty()) refuse_argument(argument, "a value is missing beside a comma");
    axis.values.push_back({std::move(value)});
  }
  return axis;
}

void zip_axes(std::vector<Axis>& axes, const std::string& keys) {
  const auto refuse_zip = [&](const std::string& what) { throw ConfigError(fmt::format("--zip {}: {}", keys, what)); };
  const auto names = split_at_commas(keys);
  if (names.size() < 2) refuse_zip("expected two keys or more, with a comma between");
  std::optional<std::size_t> first;
  for (const auto& key : names) {
    const auto axis = std::find_if(axes.begin(), axes.end(), [&](const Axis& candidate) { return candidate.has(key); });
    if (axis == axes.end()) refuse_zip(fmt::format("{} is no axis of this sweep", key));
    const auto index = static_cast<std::size_t>(axis - axes.begin());
    if (!first) {
      first = index;
      continue;
    }
    if (index == *first) refuse_zip(fmt::format("{} is paired already", key));
    auto& target = axes[*first];
    if (axis->values.size() != target.values.size()) {
      refuse_zip(fmt::format("{} has {} values, {} has {}", fmt::join(target.keys, ", "), target.values.size(), key, axis->values.size()));
    }
    target.keys.insert(target.keys.end(), axis->keys.begin(), axis->keys.end());
    if (axis->nodes.empty()) target.nodes.clear();
    for (std::size_t i = 0; i < target.values.size(); ++i) {
      if (!target.nodes.empty()) target.nodes[i].insert(target.nodes[i].end(), axis->nodes[i].begin(), axis->nodes[i].end());
      target.values[i].insert(target.values[i].end(), axis->values[i].begin(), axis->values[i].end());
    }
    axes.erase(axis);
    if (index < *first) --*first;
  }
}

}  // namespace mnemo
