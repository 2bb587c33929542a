#include "experiments/sweep/results.h"

#include "core/config.h"
#include "core/progress.h"
#include "experiments/directory/run_reader.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <cmath>
#include <ctime>
#include <limits>
#include <map>
#include <numeric>
#include <set>

namespace mnemo {

namespace {

constexpr std::int64_t kLost = 60;  // seconds without a sign of life

std::string number_text(double value) { return std::isfinite(value) ? fmt::format("{:.6g}", value) : std::string(); }

std::string state_of(const fs::path& directory, const Status& status) {
  if (status.state.empty()) return path_exists(directory) ? "waiting" : "missing";
  if (status.state == "running" && std::time(nullptr) - status.heartbeat > kLost) return "lost";
  return status.state;
}

RunState run_state(const fs::path& directory, SweepRow row) {
  auto status = read_status(directory);
  auto state = state_of(directory, status);
  return {std::move(row), std::move(state), std::move(status)};
}

bool is_run(const fs::path& directory) { return path_exists(directory / "config.yaml"); }

/// Of the ranks of a set, the places of those that are ever drawn: own weights may be zero.
std::vector<std::size_t> drawn_ranks(const fs::path& run, const std::string& set, const std::vector<std::int64_t>& ranks) {
  std::vector<std::size_t> places(ranks.size());
  std::iota(places.begin(), places.end(), 0);
  if (set == "novel" || !path_exists(run / "data_rows.npy")) return places;
  const RunReader reader(run);
  const auto& probabilities = reader.law().sampler.probabilities();
  std::erase_if(places, [&](std::size_t i) { return probabilities[static_cast<std::size_t>(ranks[i])] == 0; });
  return places;
}

/// The last line of a file; empty where there is none.
std::string last_line(const fs::path& path) {
  constexpr std::uint64_t kLongest = 1 << 16;
  const InputFile file(path);
  const auto size = file.size();
  auto text = file.read(size - std::min(size, kLongest), kLongest);
  while (text.ends_with('\n')) text.pop_back();
  return text.substr(text.rfind('\n') + 1);
}

/// A number as a configuration has it; none where it is no number.
std::optional<double> number_of(const std::string& text) {
  double value = 0;
  if (!read_number(text, value, {}).empty()) return {};
  return value;
}

}  // namespace

std::vector<RunState> run_states(const fs::path& directory, const Log& log) {
  std::vector<RunState> runs;
  const SweepFolder folder(directory);
  if (folder.exists()) {
    for (auto& row : folder.rows(log)) {
      const auto path = folder.directory_of(row.run);
      runs.push_back(run_state(path, std::move(row)));
    }
    return runs;
  }
  if (is_run(directory)) return {run_state(directory, {canonical_path(directory).filename().string(), {}, {}})};
  for (const auto& entry : entries_of(directory)) {
    if (!entry.filename().string().starts_with('.') && is_run(entry)) runs.push_back(run_state(entry, {entry.filename().string(), {}, {}}));
  }
  if (runs.empty()) throw Error(ExitCode::data, fmt::format("{}: neither a sweep nor a run, and no folder of runs", directory.string()));
  std::sort(runs.begin(), runs.end(), [](const RunState& a, const RunState& b) { return a.row.run < b.row.run; });
  return runs;
}

std::string counts_text(const std::vector<RunState>& runs) {
  std::map<std::string, std::size_t> number;
  for (const auto& run : runs) ++number[run.state];
  std::vector<std::string> parts;
  for (const auto& [state, count] : number) {
    if (state != "done") parts.push_back(fmt::format("{} {}", count, state));
  }
  return fmt::format("{} of {} done{}{}", number["done"], runs.size(), parts.empty() ? "" : ", ", fmt::join(parts, ", "));
}

namespace {

std::vector<SweepRow> rows_of(const std::vector<RunState>& runs) {
  std::vector<SweepRow> rows;
  for (const auto& run : runs) rows.push_back(run.row);
  return rows;
}

std::string value_of(const SweepRow& row, const std::string& key) {
  const auto found = std::find_if(row.values.begin(), row.values.end(), [&](const auto& value) { return value.first == key; });
  return found == row.values.end() ? std::string() : found->second;
}

}  // namespace

Table status_table(const std::vector<RunState>& runs) {
  const auto keys = keys_of(rows_of(runs));
  Table table{keys, {}};
  for (const auto* column : {"state", "step", "steps", "loss", "run"}) table.columns.emplace_back(column);
  for (const auto& run : runs) {
    std::vector<std::string> cells;
    for (const auto& key : keys) cells.push_back(value_of(run.row, key));
    cells.push_back(run.state);
    const bool began = !run.status.state.empty();
    cells.push_back(began ? std::to_string(run.status.step) : "");
    cells.push_back(began ? std::to_string(run.status.steps) : "");
    cells.push_back(number_text(run.status.loss));
    cells.push_back(run.row.run);
    table.rows.push_back(std::move(cells));
  }
  return table;
}

Table cache_table(const fs::path& cache, const Log& log) {
  std::vector<std::pair<std::int64_t, std::vector<std::string>>> lines;
  for (const auto& entry : entries_of(cache)) {
    if (entry.filename().string().starts_with('.')) continue;
    std::vector<RunState> runs;
    try {
      runs = run_states(entry, log);
    } catch (const Error&) {
      continue;  // a folder of other things
    }
    std::int64_t newest = 0;
    for (const auto& run : runs) newest = std::max(newest, run.status.heartbeat);
    const auto age = newest > 0 ? duration_text(static_cast<double>(std::time(nullptr) - newest)) + " ago" : std::string();
    lines.push_back({newest, {entry.filename().string(), counts_text(runs), age}});
  }
  std::stable_sort(lines.begin(), lines.end(), [](const auto& a, const auto& b) { return a.first > b.first; });
  Table table{{"group", "runs", "last sign of life"}, {}};
  for (auto& [newest, cells] : lines) table.rows.push_back(std::move(cells));
  return table;
}

Metric::Metric(const std::string& name) : name_(name) {
  const auto dot = name.rfind('.');
  column_ = name.substr(dot == name.npos ? 0 : dot + 1);
  const bool of_set = name.starts_with("eval.") && dot > 5 && dot != name.npos;
  if (of_set) set_ = name.substr(5, dot - 5);
  const bool known = of_set ? column_ == "loss" || column_ == "accuracy" : name == "train_loss" || name == "train_accuracy";
  if (!known) {
    throw Error(ExitCode::usage,
                fmt::format("no metric '{}'; there are eval.<set>.loss, eval.<set>.accuracy (eval.train.loss), train_loss and train_accuracy", name));
  }
  largest_ = column_.ends_with("accuracy");
}

double Metric::of(const fs::path& run) const {
  if (set_.empty()) {
    const auto line = nlohmann::json::parse(last_line(run / "metrics.jsonl"), nullptr, /*allow_exceptions=*/false);
    if (!line.is_object() || !line.contains(column_)) throw Error(ExitCode::data, fmt::format("{}: no {} in metrics.jsonl", run.string(), column_));
    return line[column_].is_number() ? line[column_].get<double>() : std::numeric_limits<double>::infinity();
  }
  if (!path_exists(run / "eval" / set_)) {
    std::vector<std::string> sets;
    for (const auto& folder : entries_of(run / "eval")) sets.push_back(folder.filename().string());
    std::sort(sets.begin(), sets.end());
    throw Error(ExitCode::usage, fmt::format("{}: has no set '{}'; it has {}", run.string(), set_, fmt::join(sets, ", ")));
  }
  const auto set = RunReader(run, {}).set(set_);
  if (set.steps.empty()) throw Error(ExitCode::data, fmt::format("{}: set {} was never evaluated", run.string(), set_));
  const auto last = static_cast<std::int64_t>(set.steps.size()) - 1;
  const auto row = (column_ == "loss" ? set.loss : set.accuracy)[last];
  const auto values = row.view().as<float>();
  const auto drawn = drawn_ranks(run, set_, set.ranks);
  double sum = 0;
  for (const auto i : drawn) sum += values[i];
  return sum / static_cast<double>(drawn.size());
}

double BestPoint::mean() const {
  return metrics.empty() ? std::numeric_limits<double>::quiet_NaN()
                         : std::accumulate(metrics.begin(), metrics.end(), 0.0) / static_cast<double>(metrics.size());
}

double BestPoint::deviation() const {
  if (metrics.size() < 2) return std::numeric_limits<double>::quiet_NaN();
  double sum = 0;
  for (const double value : metrics) sum += (value - mean()) * (value - mean());
  return std::sqrt(sum / static_cast<double>(metrics.size() - 1));
}

BestRuns best_runs(const fs::path& directory, const std::vector<RunState>& runs, const Metric& metric, const std::vector<std::string>& over) {
  const bool is_sweep = SweepFolder(directory).exists();
  auto keys = keys_of(rows_of(runs));
  for (const auto& key : over) {
    if (std::erase(keys, key) == 0 && key != "seed") {
      throw Error(ExitCode::usage, fmt::format("--over {}: does not vary here; {} do", key, fmt::join(keys_of(rows_of(runs)), ", ")));
    }
  }
  BestRuns best{keys, {}};
  if (!is_sweep) best.keys = {"run"};
  std::map<std::vector<std::string>, std::size_t> places;
  for (const auto& run : runs) {
    std::vector<std::string> values;
    for (const auto& key : best.keys) values.push_back(is_sweep ? value_of(run.row, key) : run.row.run);
    const auto [place, fresh] = places.emplace(values, best.points.size());
    if (fresh) best.points.push_back({std::move(values), 0, {}, 0});
    auto& point = best.points[place->second];
    ++point.runs;
    if (run.state == "diverged") ++point.diverged;
    if (run.state != "done" && run.state != "at_chance") continue;
    const auto path = !is_sweep && is_run(directory) ? directory : directory / run.row.run;
    point.metrics.push_back(metric.of(path));
  }
  std::stable_sort(best.points.begin(), best.points.end(), [&](const BestPoint& a, const BestPoint& b) {
    if (a.metrics.empty() || b.metrics.empty()) return !a.metrics.empty() && b.metrics.empty();
    return metric.is_better(a.mean(), b.mean());
  });
  return best;
}

Table BestRuns::table(const Metric& metric) const {
  Table table{keys, {}};
  for (const auto* column : {"", "spread", "min", "max", "done", "runs", "diverged"})
    table.columns.emplace_back(*column == '\0' ? metric.name() : column);
  for (const auto& point : points) {
    auto cells = point.values;
    const auto [low, high] = std::minmax_element(point.metrics.begin(), point.metrics.end());
    const bool any = !point.metrics.empty();
    cells.push_back(number_text(point.mean()));
    cells.push_back(number_text(point.deviation()));
    cells.push_back(any ? number_text(*low) : "");
    cells.push_back(any ? number_text(*high) : "");
    cells.push_back(std::to_string(point.metrics.size()));
    cells.push_back(std::to_string(point.runs));
    cells.push_back(std::to_string(point.diverged));
    table.rows.push_back(std::move(cells));
  }
  return table;
}

namespace {

/// Whether the values of one key say those of another: they vary together, and there is no going on with one alone.
bool is_function_of(const BestRuns& best, std::size_t k, std::size_t of) {
  std::map<std::string, std::set<std::string>> values;
  std::set<std::string> all;
  for (const auto& point : best.points) {
    values[point.values[of]].insert(point.values[k]);
    all.insert(point.values[k]);
  }
  return all.size() > 1 && std::all_of(values.begin(), values.end(), [](const auto& entry) { return entry.second.size() == 1; });
}

bool is_zipped(const BestRuns& best, std::size_t k) {
  for (std::size_t other = 0; other < best.keys.size(); ++other) {
    if (other != k && (is_function_of(best, k, other) || is_function_of(best, other, k))) return true;
  }
  return false;
}

}  // namespace

std::vector<GridEdge> grid_edges(const BestRuns& best) {
  std::vector<GridEdge> edges;
  if (best.points.empty() || best.points[0].metrics.empty()) return edges;
  const auto& winner = best.points[0];
  for (std::size_t k = 0; k < best.keys.size(); ++k) {
    std::set<double> tried;
    bool numeric = true;
    for (const auto& point : best.points) {
      const auto value = number_of(point.values[k]);
      numeric = numeric && value.has_value();
      if (value) tried.insert(*value);
    }
    if (!numeric || tried.size() < 2 || is_zipped(best, k)) continue;
    const double value = *number_of(winner.values[k]);
    const bool is_largest = value == *tried.rbegin();
    if (!is_largest && value != *tried.begin()) continue;
    const double beside = is_largest ? *std::next(tried.rbegin()) : *std::next(tried.begin());
    GridEdge edge{best.keys[k], winner.values[k], is_largest, {}};
    const bool whole = std::all_of(tried.begin(), tried.end(), [](double x) { return x == std::floor(x); });
    double next = value;
    for (int i = 0; i < 2; ++i) {
      next = value > 0 && beside > 0 ? next * (value / beside) : next + (value - beside);
      if (whole && next != std::floor(next)) next = is_largest ? std::ceil(next) : std::floor(next);
      if (whole && next < 1 && value >= 1) break;
      edge.beyond.push_back(fmt::format("{:.6g}", next));
    }
    if (!edge.beyond.empty()) edges.push_back(std::move(edge));
  }
  return edges;
}

}  // namespace mnemo
