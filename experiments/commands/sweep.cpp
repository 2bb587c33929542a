#include "core/shell.h"
#include "core/table.h"
#include "core/threads.h"
#include "experiments/commands/commands.h"
#include "experiments/commands/train.h"
#include "experiments/directory/run_reader.h"
#include "experiments/run/disk.h"
#include "experiments/sweep/local.h"
#include "experiments/sweep/results.h"
#include "experiments/sweep/slurm.h"
#include "experiments/sweep/sweep_folder.h"

#include <fmt/ranges.h>

#include <algorithm>

namespace mnemo {

namespace {

struct SweepRequest {
  SweepArguments arguments;
  fs::path cache, directory;  // of sweep; of resume
  std::int64_t jobs = 0, max_pack = 0;
  std::vector<std::string> gpus;
  bool dry_run = false, wait = false;
  Host host;
};

std::int64_t most_threads(const std::vector<Member>& members) {
  std::int64_t threads = 1;
  for (const auto& member : members) threads = std::max(threads, member.loaded.config.threads);
  return threads;
}

/// Workers at a time, where the user does not say: as many as the cores can feed.
std::size_t jobs_of(const SweepRequest& request, const std::vector<Member>& members) {
  if (!request.gpus.empty()) return request.gpus.size() * static_cast<std::size_t>(std::max<std::int64_t>(1, request.jobs));
  if (request.jobs > 0) return static_cast<std::size_t>(request.jobs);
  return static_cast<std::size_t>(std::max<std::int64_t>(1, available_cores() / most_threads(members)));
}

/// This program as jobs call it.
std::string program_file() { return fs::read_symlink("/proc/self/exe").string(); }

Table table_of(const SweepPlan& plan) {
  Table table{plan.keys, {}};
  table.columns.push_back("run");
  for (const auto& point : plan.points) {
    table.rows.push_back(point.values);
    table.rows.back().push_back(point.run());
  }
  return table;
}

void print_plan(const SweepPlan& plan, const SweepFolder& folder, const SweepRequest& request, const std::vector<Member>& members) {
  fmt::print("{}\n", table_of(plan).text(TableFormat::table));
  std::vector<RunConfig> configs;
  double bytes = 0, steps = 0;
  for (const auto& point : plan.points) {
    const auto& config = point.loaded.config;
    configs.push_back(config);
    bytes += disk_need(config).total();
    steps += static_cast<double>(config.train.steps);
  }
  const auto jobs = jobs_of(request, members);
  const auto cost = cost_of_step(configs[0], request.gpus);
  const auto max_pack = request.max_pack > 0                    ? static_cast<std::size_t>(request.max_pack)
                        : request.arguments.launcher == "slurm" ? 1
                                                                : default_max_pack(cost, configs.size(), jobs);
  const auto packs = packs_of(configs, std::vector<std::int64_t>(configs.size()), max_pack);
  fmt::print("sweep    {}\n", folder.path().string());
  fmt::print("points   {} in {} pack(s), {} worker(s) at a time\n", plan.points.size(), packs.size(), jobs);
  fmt::print("time     {}\n",
             cost ? fmt::format("about {}, evaluations apart ({:.3f} ms a step of the first)",
                                duration_text(cost->seconds * steps / static_cast<double>(std::min(jobs, packs.size()))), 1e3 * cost->seconds)
                  : "unknown");
  fmt::print("disk     at most {:.1f} MB\n", bytes / 1e6);
  if (request.arguments.launcher == "slurm") {
    fmt::print("\n{}\n", job_script(plan.slurm, plan.group, folder.own("job_<n>"), packs.size(), program_file()));
  }
  fmt::print("nothing was written\n");
}

ExitCode carry_out_and_tell(const std::vector<Member>& members, const SweepFolder& folder, const SweepRequest& request) {
  wait_without_spinning(most_threads(members));
  const LocalLauncher launcher{jobs_of(request, members), static_cast<std::size_t>(request.max_pack), request.gpus, request.host.progress};
  const auto& program = request.host.program;
  const auto code = carry_out_here(members, launcher, request.host);
  if (code == ExitCode::done) {
    fmt::print("results: {}\nnext:    {}\n", folder.path().string(), command_line(program, "best", folder.path()));
  } else if (code == ExitCode::stopped) {
    fmt::print("stopped; everything up to here is saved. Resume with\n  {}\n", command_line(program, "resume", folder.path()));
  } else {
    fmt::print("some runs failed; what they lack can be tried again with\n  {}\n", command_line(program, "resume", folder.path()));
  }
  return code;
}

/// The code of a sweep as its run directories show it.
ExitCode code_of(const std::vector<RunState>& runs) {
  const auto is_over = [](const RunState& run) { return run.state == "done" || run.state == "at_chance" || run.state == "diverged"; };
  if (std::all_of(runs.begin(), runs.end(), is_over)) return ExitCode::done;
  const auto failed = std::any_of(runs.begin(), runs.end(), [](const RunState& run) { return run.state == "failed"; });
  return failed ? ExitCode::bug : ExitCode::stopped;
}

ExitCode submit_and_tell(const std::vector<Member>& members, const SweepFolder& folder, const SlurmConfig& slurm, const SweepRequest& request) {
  const auto& program = request.host.program;
  const auto jobs = submit(folder, members, slurm, static_cast<std::size_t>(std::max<std::int64_t>(1, request.max_pack)), program_file());
  if (jobs.empty()) {
    fmt::print("nothing is left to do: {}\n", folder.path().string());
    return ExitCode::done;
  }
  fmt::print("submitted {}\nwatch with\n  {} --watch\n  squeue --jobs={}\n", fmt::join(jobs, ", "), command_line(program, "status", folder.path()),
             fmt::join(jobs, ","));
  if (!request.wait) return ExitCode::done;
  if (!wait_for_jobs(jobs, request.host.stop)) {
    fmt::print("no longer waiting; the jobs go on\n");
    return ExitCode::stopped;
  }
  const auto runs = run_states(folder.path(), request.host.log);
  fmt::print("{}\n", counts_text(runs));
  return code_of(runs);
}

ExitCode sweep(const SweepRequest& request) {
  const auto& log = request.host.log;
  const auto folder_of = [&](const std::string& group) { return SweepFolder((request.cache.empty() ? default_cache() : request.cache) / group); };
  const auto plan = plan_sweep(request.arguments, [&](const std::string& group) { return folder_of(group).earlier(log); });
  const auto folder = folder_of(plan.group);
  for (const auto& duplicate : plan.duplicates) log.warning("{}", duplicate);
  std::vector<Member> members;
  for (const auto& point : plan.points) members.push_back({point.loaded, folder.directory_of(point.run()), false});
  if (request.dry_run) {
    print_plan(plan, folder, request, members);
    return ExitCode::done;
  }
  folder.add(plan, request.arguments, log);
  if (request.arguments.launcher == "slurm") return submit_and_tell(members, folder, plan.slurm, request);
  return carry_out_and_tell(members, folder, request);
}

ExitCode resume(const SweepRequest& request) {
  const SweepFolder folder(request.directory);
  if (!folder.exists()) {
    if (path_exists(request.directory / "config.yaml")) {
      TrainRequest train_request;
      train_request.config_path = request.directory / "config.yaml";
      train_request.host = request.host;
      train_request.before_threads = wait_without_spinning;
      return train(train_request);
    }
    throw Error(ExitCode::data, fmt::format("{}: neither a sweep (.sweep/manifest.jsonl) nor a run (config.yaml)", request.directory.string()));
  }
  std::vector<std::string> runs;
  for (auto& row : folder.rows(request.host.log)) runs.push_back(std::move(row.run));
  const auto members = stored_members(folder.path(), runs, request.host.log);
  auto launcher = request.arguments.launcher;
  if (const auto call = folder.last_call(); launcher.empty()) launcher = call ? call->launcher : "local";
  if (launcher == "slurm") return submit_and_tell(members, folder, latest_slurm_config(folder), request);
  return carry_out_and_tell(members, folder, request);
}

/// What sweep and resume have in common.
void add_common(CLI::App* command, const std::shared_ptr<SweepRequest>& request, const std::shared_ptr<std::string>& progress) {
  command->add_option("--launcher", request->arguments.launcher, "local: forked workers on this machine; slurm: an array of jobs of a cluster")
      ->check(CLI::IsMember({"local", "slurm"}));
  command->add_flag("--wait", request->wait, "with slurm: wait until the jobs have ended");
  add_number(command, "--jobs", request->jobs, in_range(1, 4096), "workers at a time (default: cores / threads of a run)")->default_str("");
  command->add_option("--gpus", request->gpus, "GPUs to spread the workers over, each seeing one: 0,1; --jobs is then of each, one by default")
      ->delimiter(',');
  add_number(command, "--max-pack", request->max_pack, in_range(1, 4096),
             "runs of one shape that a worker trains together (default: on a GPU of this machine as many as its memory holds, else 1)")
      ->default_str("");
  add_number(command, "--max-hours", request->host.max_hours, in_range(0, 1e6, true, /*include_low=*/false),
             "stop each run, resumable, after this long")
      ->default_str("");
  command->add_option("--progress", *progress, "auto, bar, plain or none")->check(CLI::IsMember({"auto", "bar", "plain", "none"}));
}

}  // namespace

void add_sweep(CLI::App& app, const Invocation& invocation, Command& chosen) {
  auto* command = app.add_subcommand("sweep", "Run every point of a grid of settings, or go on with it");
  command->footer(
      "Axes are in the file (sweep: {train.lr: [1.0e-3, 3.0e-3], seed: [0, 1, 2]}) or on the command line, where they replace those of the file:\n"
      "  train.lr=1e-3,3e-3      seed=range(0,3)      train.lr=logspace(1e-4,1e-1,7)      model.heads=1,5 model.init_std=0.01,0.1 --zip "
      "model.heads,model.init_std\n"
      "Examples:\n"
      "  mnemo sweep configs/sweep_lr.yaml\n"
      "  mnemo sweep configs/quickstart.yaml 'train.lr=logspace(1e-4,1e-2,5)' seed=0,1,2 --dry-run\n"
      "Ctrl-C stops all runs after their current step and saves; the same command goes on. More points, seeds or steps are added to what is there.");
  auto request = std::make_shared<SweepRequest>();
  auto progress = std::make_shared<std::string>("auto");
  auto cache = std::make_shared<std::string>();
  command->add_option("config", request->arguments.config_path, "YAML file")->required()->transform(home_expanded());
  command->add_option("settings", request->arguments.overrides, "a.b=value for all runs, a.b=v,w for an axis");
  command->add_option("--zip", request->arguments.zips, "keys of axes that vary together: model.heads,model.init_std")
      ->take_all()
      ->allow_extra_args(false);
  command->add_option("--cache", *cache, "folder of all results (default: $MNEMO_CACHE, or ./cache)")->transform(home_expanded());
  command->add_flag("--dry-run", request->dry_run, "print points, packs, time and disk; write nothing");
  add_common(command, request, progress);
  command->callback([=, &chosen] {
    chosen = [=] {
      request->cache = *cache;
      describe(request->host, invocation, *progress);
      if (!request->dry_run) let_signals_stop(request->host);
      return sweep(*request);
    };
  });
}

void add_resume(CLI::App& app, const Invocation& invocation, Command& chosen) {
  auto* command = app.add_subcommand("resume", "Go on with what a sweep, or a run, has not done");
  command->footer(
      "Runs that are done, at chance or diverged are left as they are.\nExamples:\n  mnemo resume cache/sweep_lr\n  mnemo resume cache/sweep_lr "
      "--jobs 1");
  auto request = std::make_shared<SweepRequest>();
  request->arguments.launcher.clear();  // as in the latest call
  auto progress = std::make_shared<std::string>("auto");
  command->add_option("directory", request->directory, "folder of a sweep, or of a run")->required()->transform(home_expanded());
  add_common(command, request, progress);
  command->callback([=, &chosen] {
    chosen = [=] {
      describe(request->host, invocation, *progress);
      let_signals_stop(request->host);
      return resume(*request);
    };
  });
}

void add_work(CLI::App& app, const Invocation& invocation, Command& chosen) {
  auto* command = app.add_subcommand("work", "What a job of a cluster calls: carry out one task of a submission")->group("");
  auto folder = std::make_shared<std::string>();
  auto task = std::make_shared<std::int64_t>(0);
  command->add_option("folder", *folder, "submission: .sweep/job_<n>")->required();
  command->add_option("task", *task, "index of the task in its array")->required();
  command->callback([=, &chosen] {
    chosen = [=] {
      Host host;
      describe(host, invocation, "plain");
      let_signals_stop(host);
      return carry_out_task(*folder, *task, host);
    };
  });
}

}  // namespace mnemo
