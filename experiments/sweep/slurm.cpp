#include "experiments/sweep/slurm.h"

#include "core/shell.h"
#include "core/signals.h"
#include "experiments/directory/run_reader.h"
#include "experiments/sweep/local.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <nlohmann/json.hpp>

#include <sys/wait.h>

#include <array>
#include <charconv>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <sstream>
#include <thread>

namespace mnemo {

using nlohmann::json;

namespace {

constexpr int kSecondsBeforeLimit = 120;

struct Answer {
  int code;  ///< 127: there is no such program
  std::string text;
};

/// Runs a command line of the shell; its output, both streams.
Answer ask(const std::string& command) {
  std::FILE* pipe = ::popen((command + " 2>&1").c_str(), "re");
  if (pipe == nullptr) throw Error(ExitCode::resources, fmt::format("cannot run {}", command));
  Answer answer{0, {}};
  std::array<char, 4096> buffer;
  while (const auto count = std::fread(buffer.data(), 1, buffer.size(), pipe)) answer.text.append(buffer.data(), count);
  const int status = ::pclose(pipe);
  answer.code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  while (answer.text.ends_with('\n')) answer.text.pop_back();
  return answer;
}

/// Tasks that one array may have on this cluster.
std::size_t max_array_size() {
  constexpr std::size_t kUsual = 1001;
  const auto answer = ask("scontrol show config");
  const auto at = answer.text.find("MaxArraySize");
  if (answer.code != 0 || at == answer.text.npos) return kUsual;
  const auto begin = answer.text.find_first_of("0123456789", at);
  std::size_t size = 0;
  std::from_chars(answer.text.data() + begin, answer.text.data() + answer.text.size(), size);
  return size > 0 ? size : kUsual;  // indices are below it
}

fs::path new_submission(const SweepFolder& folder) {
  make_directories(folder.own(""));
  for (int n = 1;; ++n) {
    const auto path = folder.own(fmt::format("job_{}", n));
    std::error_code problem;
    if (fs::create_directory(path, problem)) return fs::canonical(path);
    if (problem) throw Error(ExitCode::cannot_create, fmt::format("{}: {}", path.string(), problem.message()));
  }
}

std::vector<std::string> runs_of_task(const fs::path& folder, std::int64_t task) {
  const auto path = folder / "packs.jsonl";
  std::istringstream text(read_file(path));
  std::string line;
  for (std::int64_t i = 0; std::getline(text, line); ++i) {
    if (i != task) continue;
    const auto runs = json::parse(line, nullptr, /*allow_exceptions=*/false);
    if (!runs.is_array()) throw Error(ExitCode::data, fmt::format("{}:{}: not a list of runs", path.string(), task + 1));
    return runs;
  }
  throw Error(ExitCode::data, fmt::format("{}: has no task {}", path.string(), task));
}

SlurmConfig read_slurm_config(const fs::path& path) {
  auto source = ConfigSource::from_file(path);
  auto slurm = source.read<SlurmConfig>();
  source.throw_if_violated();
  return slurm;
}

std::string variable(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? std::string() : value;
}

/// Puts this task of an array into the queue again.
void requeue(std::int64_t max_requeues, const Log& log) {
  const auto job = variable("SLURM_ARRAY_JOB_ID") + "_" + variable("SLURM_ARRAY_TASK_ID");
  const auto text = variable("SLURM_RESTART_COUNT");
  std::int64_t restarts = 0;
  std::from_chars(text.data(), text.data() + text.size(), restarts);
  if (restarts >= max_requeues) {
    return log.warning("saved, and not put into the queue again: that was done {} times (slurm.max_requeues). mnemo resume goes on", restarts);
  }
  log.info("saved before the time limit; into the queue again");
  if (const auto answer = ask("scontrol requeue " + quoted(job)); answer.code != 0) log.warning("scontrol requeue {}: {}", job, answer.text);
}

}  // namespace

std::string job_script(const SlurmConfig& slurm, const std::string& group, const fs::path& folder, std::size_t tasks, const std::string& program) {
  std::string text = "#!/bin/bash\n";
  const auto option = [&](const std::string& name, const auto& value) { text += fmt::format("#SBATCH --{}={}\n", name, value); };
  const auto choice = [&](const std::string& name, const auto& value) {
    if (value) option(name, *value);
  };
  option("job-name", "mnemo-" + group);
  option("array", fmt::format("0-{}%{}", tasks - 1, slurm.array_parallelism));
  option("output", "\"" + (folder / "%a.log").string() + "\"");
  option("time", slurm.timeout_min);
  option("cpus-per-task", slurm.cpus_per_task);
  choice("gpus-per-node", slurm.gpus_per_node);
  if (slurm.mem_gb) option("mem", fmt::format("{:.0f}M", 1024 * *slurm.mem_gb));
  choice("partition", slurm.partition);
  choice("account", slurm.account);
  choice("qos", slurm.qos);
  choice("constraint", slurm.constraint);
  option("signal", fmt::format("B:USR1@{}", kSecondsBeforeLimit));
  text += "#SBATCH --requeue\n";
  option("open-mode", "append");
  for (const auto& parameter : slurm.additional_parameters) text += fmt::format("#SBATCH --{}\n", parameter);
  for (const auto& line : slurm.setup) text += line + "\n";
  // exec: the signal is sent to the shell of the job, which is the worker then
  text += fmt::format("exec {}{} work {} \"$SLURM_ARRAY_TASK_ID\"\n", slurm.command ? *slurm.command + " " : "", quoted(program),
                      quoted(folder.string()));
  return text;
}

SlurmConfig latest_slurm_config(const SweepFolder& folder) {
  int latest = 0;
  while (path_exists(folder.own(fmt::format("job_{}/slurm.yaml", latest + 1)))) ++latest;
  if (latest == 0) throw Error(ExitCode::data, fmt::format("{}: was never given to SLURM", folder.path().string()));
  return read_slurm_config(folder.own(fmt::format("job_{}/slurm.yaml", latest)));
}

std::vector<std::string> submit(const SweepFolder& folder, const std::vector<Member>& members, const SlurmConfig& slurm, std::size_t max_pack,
                                const std::string& program) {
  if (ask("command -v sbatch").code != 0) {
    throw Error(ExitCode::config, "no sbatch on the PATH: submit from a login node of the cluster, or leave --launcher slurm out to run here");
  }
  const auto [open, configs, starts] = open_runs(members);
  const auto packs = packs_of(configs, starts, max_pack);
  std::vector<std::string> jobs;
  const auto most = packs.empty() ? 1 : max_array_size();
  for (std::size_t begin = 0; begin < packs.size(); begin += most) {
    const auto end = std::min(packs.size(), begin + most);
    const auto submission = new_submission(folder);
    std::string lines;
    for (auto pack = begin; pack < end; ++pack) {
      json runs = json::array();
      for (const auto i : packs[pack]) runs.push_back(*configs[i].run);
      lines += runs.dump() + "\n";
    }
    write_atomically(submission / "packs.jsonl", lines);
    write_atomically(submission / "slurm.yaml", to_yaml(slurm));
    write_atomically(submission / "job.sh", job_script(slurm, folder.path().filename().string(), submission, end - begin, program));
    const auto answer = ask("sbatch --parsable " + quoted((submission / "job.sh").string()));
    if (answer.code != 0) throw Error(ExitCode::config, fmt::format("sbatch {}: {}", (submission / "job.sh").string(), answer.text));
    jobs.push_back(answer.text.substr(answer.text.rfind('\n') + 1, answer.text.find(';') - answer.text.rfind('\n') - 1));
  }
  return jobs;
}

bool wait_for_jobs(const std::vector<std::string>& jobs, const std::function<bool()>& stop) {
  const auto command = fmt::format("squeue --noheader --jobs={}", fmt::join(jobs, ","));
  while (true) {
    const auto answer = ask(command);
    if (answer.text.empty() || answer.text.find("Invalid job id") != answer.text.npos) return true;
    for (int tenths = 0; tenths < 20; ++tenths) {
      if (stop && stop()) return false;
      std::this_thread::sleep_for(std::chrono::milliseconds(100));
    }
  }
}

ExitCode carry_out_task(const fs::path& folder, std::int64_t task, const Host& host) {
  const auto group = folder.parent_path().parent_path();
  const auto slurm = read_slurm_config(folder / "slurm.yaml");
  const auto members = stored_members(group, runs_of_task(folder, task), host.log);
  if (members.empty()) throw Error(ExitCode::data, fmt::format("{}: no run of task {} can be read", folder.string(), task));
  const auto code = carry_out_and_log(members, host);
  if (code == ExitCode::stopped && stop_signal() == SIGUSR1) requeue(slurm.max_requeues, host.log);
  return code;
}

}  // namespace mnemo
