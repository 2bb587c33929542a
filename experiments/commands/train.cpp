#include "experiments/commands/train.h"

#include "core/output.h"
#include "core/shell.h"
#include "core/signals.h"
#include "core/threads.h"
#include "experiments/commands/commands.h"
#include "experiments/directory/summary.h"
#include "experiments/record/notebook_pickle.h"
#include "experiments/run/data.h"
#include "experiments/run/disk.h"
#include "experiments/run/schedule.h"
#include "experiments/run/worker.h"

#include <torch/torch.h>

#include <csignal>
#include <cstdlib>

namespace mnemo {

namespace {

/// The run directory of a request. A config.yaml inside a run directory means that directory, unless --cache is given.
fs::path directory_of(const TrainRequest& request, const RunConfig& config) {
  const auto folder = fs::absolute(request.config_path).parent_path();
  const bool own = request.config_path.filename() == "config.yaml" && path_exists(folder / "meta.json");
  if (own && !request.cache) return folder;
  return request.cache.value_or(default_cache()) / *config.group / *config.run;
}

/// The number of threads: as given, else as the run had before, else by the work of a step.
std::int64_t threads_of(const Member& member) {
  const bool has_run = !member.restart && path_exists(member.directory / "config.yaml");
  return member.loaded.threads_given || !has_run ? member.loaded.config.threads : stored_config(member.directory).threads;
}

std::string megabytes(double bytes) { return bytes >= 1e9 ? fmt::format("{:.1f} GB", bytes / 1e9) : fmt::format("{:.1f} MB", bytes / 1e6); }

void print_plan(const RunConfig& config, const fs::path& directory) {
  const auto law = rank_law(config);  // refuses data files that cannot be used now rather than when the run starts
  if (config.data.file) table_of_phase(config, law, 0);
  const auto disk = disk_need(config);
  fmt::print("run        {}\n", directory.string());
  fmt::print("model      {}\n", facts_of(config).description());
  fmt::print("data       {} sequences of {} bits, {} phase(s)\n", config.data.num_sequences, config.data.length, num_phases(config));
  fmt::print("schedule   {} steps of {} sequences, at most {} evaluations\n", config.train.steps, config.train.batch_size, disk.evaluations);
  fmt::print("disk       eval {}, attention {}, checkpoints {}, weights {}, sequences {}, pickles {}\n", megabytes(disk.eval),
             megabytes(disk.attention), megabytes(disk.checkpoints), megabytes(disk.weights), megabytes(disk.sequences), megabytes(disk.pickles));
  if (disk.features > 0) fmt::print("           features {}\n", megabytes(disk.features));
  if (disk.pickles == 0 && !config.output.pickle) fmt::print("no pickles {}\n", notebook_problems(config).front().second);
  fmt::print("nothing was written\n");
}

void print_result(const RunReader& run) {
  fmt::print("{}", summary_text(run));
  if (const auto status = run.status(); status.state == "at_chance") {
    fmt::print("at chance: ended at step {} of {} by train.stop_if. Another train.lr, or train.stop_if=null, makes another run\n", status.step,
               run.config().train.steps);
  }
}

}  // namespace

fs::path default_cache() {
  const char* root = std::getenv("MNEMO_CACHE");
  return root != nullptr && *root != '\0' ? expanded_path(root) : fs::path("cache");
}

void describe(Host& host, const Invocation& invocation, const std::string& progress) {
  host.progress = progress_style(progress);
  host.program = invocation.program;
  host.command = invocation.command;
  if (host.progress == ProgressStyle::none) host.log = Log(LogLevel::warning);
}

void let_signals_stop(Host& host) {
  stop_on_signals(terminal() || host.progress == ProgressStyle::bar);
  std::signal(SIGPIPE, SIG_IGN);
  let_output_be_lost();
  host.stop = stop_signalled;
}

ExitCode train(const TrainRequest& request) {
  Member member{load_config(request.config_path, request.overrides), {}, request.restart};
  member.directory = directory_of(request, member.loaded.config);
  if (request.dry_run) {
    print_plan(member.loaded.config, member.directory);
    return ExitCode::done;
  }
  const auto threads = threads_of(member);
  if (request.before_threads) request.before_threads(threads);
  at::set_num_threads(static_cast<int>(threads));
  const auto& host = request.host;
  const auto directory = member.directory;
  const auto result = carry_out({std::move(member)}, host)[0];
  if (result.error) std::rethrow_exception(result.error);
  if (result.code == ExitCode::stopped) {
    const auto limit = host.max_hours > 0 ? " --max-hours " + config_detail::to_flow(config_detail::scalar_node(host.max_hours)) : std::string();
    fmt::print("stopped; everything up to here is saved. Resume with\n  {}{}\n", command_line(host.program, "train", directory / "config.yaml"),
               limit);
    return result.code;
  }
  print_result({directory, result.config});
  if (result.was_over) {
    fmt::print("already done: {}\n", directory.string());
  } else {
    fmt::print("results: {}\n", directory.string());
    fmt::print("next:    {}\n", command_line(host.program, "plot", directory));
  }
  return result.code;
}

void add_train(CLI::App& app, const Invocation& invocation, Command& chosen) {
  auto* command = app.add_subcommand("train", "Run a configuration, or resume it where it stopped");
  command->footer(
      "Examples:\n"
      "  mnemo train configs/quickstart.yaml\n"
      "  mnemo train configs/switch.yaml train.lr=3e-4 model.heads=2      names the run by its overrides\n"
      "  mnemo train configs/switch.yaml run=switch train.steps=40000 events.0.at=10000 events.1.at=10000\n"
      "                                                                   goes on with a run that is done; what was at 50% stays where it was\n"
      "  mnemo train configs/paper/zipf_1e5.yaml --dry-run                says how much disk it takes\n"
      "Ctrl-C (also TERM, HUP, USR1, USR2, XCPU) stops after the current step and saves; the same command goes on, to the same bytes.\n"
      "Only another Ctrl-C, more than a second later, ends without saving.");
  auto request = std::make_shared<TrainRequest>();
  auto progress = std::make_shared<std::string>("auto");
  auto cache = std::make_shared<std::string>();
  command->add_option("config", request->config_path, "YAML file")->required()->transform(home_expanded());
  command->add_option("overrides", request->overrides,
                      "a.b=value, YAML values; lists by index: events.1.at=500. Files that they name are of the working "
                      "directory, those that the YAML file names of its folder");
  command->add_option("--cache", *cache, "folder of all results (default: $MNEMO_CACHE, or ./cache)")->transform(home_expanded());
  command->add_flag("--dry-run", request->dry_run, "say what would be done, write nothing");
  command->add_flag("--restart", request->restart, "move an existing run aside (to <group>/.old) and start anew");
  add_number(command, "--max-hours", request->host.max_hours, in_range(0, 1e6, true, /*include_low=*/false), "stop, resumable, after this long")
      ->default_str("");
  command->add_option("--progress", *progress, "auto, bar, plain or none")->check(CLI::IsMember({"auto", "bar", "plain", "none"}));
  command->callback([=, &chosen] {
    chosen = [=] {
      if (!cache->empty()) request->cache = *cache;
      describe(request->host, invocation, *progress);
      if (request->dry_run) return train(*request);
      let_signals_stop(request->host);
      request->before_threads = wait_without_spinning;
      return train(*request);
    };
  });
}

}  // namespace mnemo
