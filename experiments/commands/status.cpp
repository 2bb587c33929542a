#include "core/shell.h"
#include "core/signals.h"
#include "core/table.h"
#include "experiments/commands/commands.h"
#include "experiments/commands/train.h"
#include "experiments/sweep/results.h"

#include <fmt/ranges.h>
#include <nlohmann/json.hpp>

#include <chrono>
#include <cstdio>
#include <thread>

namespace mnemo {

namespace {

bool is_cache(const fs::path& directory) { return !SweepFolder(directory).exists() && !path_exists(directory / "config.yaml"); }

/// The table of a folder, and what there is to say below it.
std::string status_text(const fs::path& directory, TableFormat format, const Log& log) {
  if (is_cache(directory)) {
    const auto groups = cache_table(directory, log);
    if (!groups.rows.empty()) return groups.text(format);
  }
  const auto runs = run_states(directory, log);
  const auto text = status_table(runs).text(format);
  return format == TableFormat::table ? text + "\n" + counts_text(runs) + "\n" : text;
}

ExitCode status(const fs::path& directory, TableFormat format, bool watch, const Log& log) {
  if (!watch) {
    fmt::print("{}", status_text(directory, format, log));
    return ExitCode::done;
  }
  stop_on_signals(/*over_bar=*/false, /*silently=*/true);
  while (!stop_signalled()) {
    fmt::print("\x1b[H\x1b[J{}", status_text(directory, format, log));
    std::fflush(stdout);
    for (int tenths = 0; tenths < 20 && !stop_signalled(); ++tenths) std::this_thread::sleep_for(std::chrono::milliseconds(100));
  }
  return ExitCode::done;
}

/// The command that tries values beyond an edge of the grid.
std::string widening(const fs::path& directory, const GridEdge& edge, const std::string& program) {
  const auto call = SweepFolder(directory).last_call();
  if (!call) return {};
  auto command = quoted(program) + " sweep " + quoted(call->config_path.string());
  for (const auto& argument : call->overrides) {
    if (argument.substr(0, argument.find('=')) != edge.key) command += " " + quoted(argument);
  }
  command += fmt::format(" {}={}", edge.key, fmt::join(edge.beyond, ","));
  for (const auto& keys : call->zips) command += " --zip " + quoted(keys);
  const auto cache = canonical_path(directory).parent_path();
  if (cache != canonical_path(default_cache())) command += " --cache " + quoted(cache.string());
  return command;
}

ExitCode best(const fs::path& directory, const std::string& metric_name, const std::vector<std::string>& over, TableFormat format,
              const std::string& program, const Log& log) {
  const Metric metric(metric_name);
  const auto runs = run_states(directory, log);
  const auto best = best_runs(directory, runs, metric, over);
  const auto table = best.table(metric);
  fmt::print("{}", table.text(format));
  if (format != TableFormat::table) return ExitCode::done;
  fmt::print("\n{}\n", counts_text(runs));
  const auto& winner = best.points[0];
  if (winner.metrics.empty()) {
    fmt::print("no run is done yet\n");
    return ExitCode::done;
  }
  std::string name;
  for (std::size_t k = 0; k < best.keys.size(); ++k) name += (k > 0 ? ", " : "") + best.keys[k] + " = " + winner.values[k];
  const auto spread = winner.metrics.size() > 1 ? fmt::format(" +- {:.2g}", winner.deviation()) : std::string();
  fmt::print("best: {}: {} {:.6g}{} ({} of {} runs)\n", name, metric.name(), winner.mean(), spread, winner.metrics.size(), winner.runs);
  for (const auto& edge : grid_edges(best)) {
    log.warning("{} = {} is the {} that was tried: the best may lie beyond", edge.key, edge.value, edge.is_largest ? "largest" : "smallest");
    if (const auto command = widening(directory, edge, program); !command.empty()) fmt::print("widen the grid with\n  {}\n", command);
  }
  return ExitCode::done;
}

/// Prints log.txt from `offset` on; where it ends now.
std::uint64_t print_log(const fs::path& path, std::uint64_t offset) {
  if (!path_exists(path)) return 0;
  const InputFile file(path);
  const auto size = file.size();
  if (size < offset) offset = 0;  // begun anew
  while (offset < size) {
    const auto text = file.read(offset, std::min<std::uint64_t>(size - offset, 1 << 20));
    std::fwrite(text.data(), 1, text.size(), stdout);
    offset += text.size();
  }
  std::fflush(stdout);
  return offset;
}

ExitCode logs(const fs::path& run, bool follow) {
  const auto path = run / "log.txt";
  if (!path_exists(run / "config.yaml")) throw Error(ExitCode::data, fmt::format("{}: no run (config.yaml)", run.string()));
  if (!path_exists(path) && !follow) throw Error(ExitCode::data, fmt::format("{}: this run has not begun: it has no log.txt", run.string()));
  auto offset = print_log(path, 0);
  if (!follow) return ExitCode::done;
  stop_on_signals(/*over_bar=*/false, /*silently=*/true);
  const auto goes_on = [&] {
    const auto state = read_status(run).state;
    return state.empty() || state == "running";
  };
  while (!stop_signalled() && goes_on()) {
    std::this_thread::sleep_for(std::chrono::milliseconds(200));
    offset = print_log(path, offset);
  }
  print_log(path, offset);
  return ExitCode::done;
}

void add_format(CLI::App* command, const std::shared_ptr<std::string>& format) {
  command->add_option("--format", *format, "table, json, csv or md")->check(CLI::IsMember({"table", "json", "csv", "md"}))->capture_default_str();
}

}  // namespace

void add_status(CLI::App& app, Command& chosen) {
  auto* command = app.add_subcommand("status", "How far the runs of a sweep are, or all that is in the cache");
  command->footer(
      "States: waiting, running, lost (it says running, but its last sign of life is a minute old), done, stopped, diverged, at_chance, failed,\n"
      "missing (its directory is gone). All is read from the run directories.\n"
      "Examples:\n  mnemo status\n  mnemo status cache/sweep_lr --watch\n  mnemo status cache/sweep_lr --format csv");
  auto directory = std::make_shared<std::string>();
  auto format = std::make_shared<std::string>("table");
  auto watch = std::make_shared<bool>(false);
  command->add_option("directory", *directory, "folder of a sweep, of runs, or of one run (default: all of the cache)")->transform(home_expanded());
  command->add_flag("--watch", *watch, "again every two seconds, until Ctrl-C");
  add_format(command, format);
  command->callback([=, &chosen] {
    chosen = [=] { return status(directory->empty() ? default_cache() : fs::path(*directory), table_format(*format), *watch, Log()); };
  });
}

void add_best(CLI::App& app, const Invocation& invocation, Command& chosen) {
  auto* command = app.add_subcommand("best", "Which settings of a sweep are best");
  command->footer(
      "A point is all runs that differ in nothing but the keys of --over; runs that diverged or are not done are counted, not averaged.\n"
      "Metrics: eval.<set>.loss, eval.<set>.accuracy (mean over a set at its last evaluation), train_loss, train_accuracy (last line of "
      "metrics.jsonl).\n"
      "Examples:\n  mnemo best cache/sweep_lr\n  mnemo best cache/sweep_lr --metric eval.phase_0.accuracy --format md");
  auto directory = std::make_shared<std::string>();
  auto metric = std::make_shared<std::string>("eval.train.loss");
  auto over = std::make_shared<std::vector<std::string>>(1, "seed");
  auto format = std::make_shared<std::string>("table");
  command->add_option("directory", *directory, "folder of a sweep")->required()->transform(home_expanded());
  command->add_option("--metric", *metric, "what runs are ranked by")->capture_default_str();
  command->add_option("--over", *over, "settings that are averaged over")->delimiter(',')->capture_default_str();
  add_format(command, format);
  command->callback([=, &chosen] { chosen = [=] { return best(*directory, *metric, *over, table_format(*format), invocation.program, Log()); }; });
}

void add_logs(CLI::App& app, Command& chosen) {
  auto* command = app.add_subcommand("logs", "The log of a run");
  command->footer(
      "Examples:\n  mnemo logs cache/sweep_lr/seed=0,train.lr=0.001\n  mnemo logs cache/quickstart/quickstart -f      until the run ends, or Ctrl-C");
  auto run = std::make_shared<std::string>();
  auto follow = std::make_shared<bool>(false);
  command->add_option("run", *run, "run directory")->required()->transform(home_expanded());
  command->add_flag("-f,--follow", *follow, "wait for more");
  command->callback([=, &chosen] { chosen = [=] { return logs(*run, *follow); }; });
}

}  // namespace mnemo
