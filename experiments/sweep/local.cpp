#include "experiments/sweep/local.h"

#include "core/device.h"
#include "core/gpu.h"
#include "experiments/directory/run_directory.h"
#include "experiments/run/data.h"
#include "experiments/run/pack.h"
#include "experiments/run/schedule.h"
#include "experiments/sweep/plan.h"
#include "experiments/sweep/workers.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <torch/torch.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <map>
#include <span>
#include <sstream>

namespace mnemo {

namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point begin) { return std::chrono::duration<double>(Clock::now() - begin).count(); }

std::string first_line(const std::string& text) { return text.substr(0, text.find('\n')); }

/// What is known of the runs of a sweep while workers carry them out.
class Board {
 public:
  enum class State { waiting, running, done, at_chance, diverged, stopped, failed };

  Board(const std::vector<Member>& members, ProgressStyle style, const Log& log) : log_(log), style_(style) {
    for (const auto& member : members) runs_.push_back({member.directory, *member.loaded.config.run, member.loaded.config.train.steps});
    if (style_ == ProgressStyle::automatic) style_ = terminal() ? ProgressStyle::bar : ProgressStyle::plain;
  }

  void set(std::size_t run, State state) { runs_[run].state = state; }
  /// Of a run that was over, or diverged, before.
  void see(std::size_t run) {
    const auto state = read_status(runs_[run].directory).state;
    runs_[run].state = state == "diverged" ? State::diverged : state == "at_chance" ? State::at_chance : State::done;
  }
  void start(std::size_t run) {
    runs_[run].state = State::running;
    runs_[run].first_step = read_status(runs_[run].directory).step;
  }
  void end(std::size_t run, const RunReport& report) {
    auto& entry = runs_[run];
    const auto status = read_status(entry.directory);
    entry.code = report.code;
    entry.step = status.step;
    switch (report.code) {
      case ExitCode::done: entry.state = status.state == "at_chance" ? State::at_chance : State::done; break;
      case ExitCode::stopped: entry.state = State::stopped; break;
      case ExitCode::diverged: entry.state = State::diverged; break;
      default: entry.state = State::failed;
    }
    if (entry.state == State::failed) {
      log_.line(LogLevel::error, fmt::format("{}: {}", entry.name, report.message));
    } else if (entry.state == State::diverged) {
      log_.warning("{}: {}", entry.name, first_line(report.message));
    } else if (entry.state != State::stopped && style_ == ProgressStyle::plain) {
      log_.info("{}: {}  ({})", entry.name, name_of(entry.state), counts());
    }
  }

  void tick() {
    const bool live = style_ == ProgressStyle::bar;
    if (style_ == ProgressStyle::none || seconds_since(shown_at_) < (live ? 0.5 : 30)) return;
    shown_at_ = Clock::now();
    for (auto& run : runs_) {
      if (run.state == State::running) run.step = std::max(run.step, read_status(run.directory).step);
    }
    if (!live) return log_.info("{}{}", counts(), time_left());
    std::vector<std::string> lines;
    constexpr std::size_t kLines = 16;
    for (const auto& run : runs_) {
      if (run.state != State::running) continue;
      if (lines.size() == kLines) break;
      lines.push_back(fmt::format("  {:3.0f}%  {:>9}/{}  {}", 100.0 * static_cast<double>(run.step) / static_cast<double>(run.steps), run.step,
                                  run.steps, run.name));
    }
    lines.push_back(counts() + time_left());
    live_.draw(std::move(lines));
  }

  /// "3 of 9 done, 2 running, 4 waiting".
  std::string counts() const {
    std::map<State, std::size_t> number;
    for (const auto& run : runs_) ++number[run.state];
    std::vector<std::string> parts;
    for (const auto state : {State::running, State::waiting, State::stopped, State::at_chance, State::diverged, State::failed}) {
      if (number[state] > 0) parts.push_back(fmt::format("{} {}", number[state], name_of(state)));
    }
    return fmt::format("{} of {} done{}{}", number[State::done], runs_.size(), parts.empty() ? "" : ", ", fmt::join(parts, ", "));
  }

  ExitCode code() const {
    auto code = ExitCode::done;
    for (const auto& run : runs_) {
      if (run.state == State::stopped || run.state == State::waiting) return ExitCode::stopped;
      if (run.state == State::failed) code = std::max(code, run.code);
    }
    return code;
  }

 private:
  struct Entry {
    fs::path directory;
    std::string name;
    std::int64_t steps;
    std::int64_t first_step = 0, step = 0;  // at the start of this session; now
    State state = State::waiting;
    ExitCode code = ExitCode::done;
  };

  static std::string_view name_of(State state) {
    switch (state) {
      case State::waiting: return "waiting";
      case State::running: return "running";
      case State::done: return "done";
      case State::at_chance: return "at chance";
      case State::diverged: return "diverged";
      case State::stopped: return "stopped";
      case State::failed: return "failed";
    }
    return {};
  }

  /// By the steps of all runs since the beginning.
  std::string time_left() const {
    double made = 0, left = 0;
    for (const auto& run : runs_) {
      made += static_cast<double>(std::max<std::int64_t>(0, run.step - run.first_step));
      if (run.state == State::running || run.state == State::waiting) left += static_cast<double>(run.steps - run.step);
    }
    return made > 0 && left > 0 ? fmt::format(", {} left", duration_text(left * seconds_since(begun_at_) / made)) : std::string();
  }

  Log log_;
  ProgressStyle style_;
  std::vector<Entry> runs_;
  LiveText live_;
  Clock::time_point begun_at_ = Clock::now(), shown_at_ = begun_at_;
};

/// Data that several runs of a sweep have in common, made once, before the first of them is forked.
class PreparedData {
 public:
  explicit PreparedData(const std::vector<RunConfig>& configs) {
    for (const auto& config : configs) ++users_[data_key(config)];
  }

  /// Of a run that is about to be forked. More than a gigabyte is not kept, and what only one run needs is left to it.
  void prepare(const RunConfig& config, const std::function<bool()>& stop) {
    struct Stopped {};
    const auto poll = [&] {
      if (stop && stop()) throw Stopped{};
    };
    constexpr double kMaxBytes = 1e9;
    const auto key = data_key(config);
    const auto& data = config.data;
    const auto phases = num_phases(config);
    const double sequences = static_cast<double>(phases) * static_cast<double>(data.num_sequences);
    const double bytes = sequences * (static_cast<double>(data.length) / 8 + 2 * sizeof(double));
    if (users_[key] < 2 || phases_.count(key) != 0 || bytes_ + bytes > kMaxBytes) return;
    bytes_ += bytes;
    auto& prepared = phases_[key];
    try {
      const auto law = rank_law(config);
      for (std::int64_t phase = 0; phase < phases; ++phase) prepared.push_back(data_of_phase(config, law, phase, poll));
    } catch (const Error&) {
      prepared.clear();  // each run will say what is wrong with its data
    } catch (const Stopped&) {
      prepared.clear();
    }
  }

  std::optional<PhaseData> find(const RunConfig& config, std::int64_t phase) const {
    const auto found = phases_.find(data_key(config));
    if (found == phases_.end() || phase >= std::ssize(found->second)) return {};
    return found->second[static_cast<std::size_t>(phase)];
  }

 private:
  std::map<std::string, std::size_t> users_;
  std::map<std::string, std::vector<PhaseData>> phases_;
  double bytes_ = 0;
};

std::string message_of(const std::exception_ptr& error, ExitCode& code) {
  try {
    std::rethrow_exception(error);
  } catch (const Error& failure) {
    code = failure.code();
    return failure.what();
  } catch (const std::exception& failure) {
    code = ExitCode::bug;
    return fmt::format("this is a bug in mnemo: {}", failure.what());
  }
}

/// Whether a pack of several runs was too large.
bool lacked_memory(const std::vector<RunReport>& reports) {
  const auto lacks = [](const RunReport& report) {
    return report.code == ExitCode::resources && report.message.find("out of memory") != std::string::npos;
  };
  return reports.size() > 1 && std::all_of(reports.begin(), reports.end(), lacks);
}

/// A pack that does not fit into memory is carried out as two, one after the other.
std::vector<RunReport> carry_out_pack(std::span<const Member> members, const Host& host) {
  at::set_num_threads(static_cast<int>(members[0].loaded.config.threads));
  const auto results = carry_out({members.begin(), members.end()}, host);
  std::vector<RunReport> reports;
  for (std::size_t i = 0; i < results.size(); ++i) {
    RunReport report{i, results[i].code, {}};
    if (results[i].error) report.message = message_of(results[i].error, report.code);
    reports.push_back(std::move(report));
  }
  if (!lacked_memory(reports)) return reports;
  const auto half = members.size() / 2;
  host.log.warning("{} runs do not fit into memory together: as two packs", members.size());
  reports = carry_out_pack(members.first(half), host);
  for (auto& report : carry_out_pack(members.subspan(half), host)) {
    report.member += half;
    reports.push_back(std::move(report));
  }
  return reports;
}

void show_gpu(const std::vector<std::string>& gpus, std::size_t place) {
  if (!gpus.empty()) ::setenv("CUDA_VISIBLE_DEVICES", gpus[place % gpus.size()].c_str(), 1);
}

}  // namespace

OpenRuns open_runs(const std::vector<Member>& members) {
  OpenRuns open;
  for (std::size_t i = 0; i < members.size(); ++i) {
    const auto& [loaded, directory, restart] = members[i];
    const auto status = read_status(directory);
    if (!restart && (status.state == "diverged" || is_over(directory, loaded.config))) continue;
    open.members.push_back(i);
    open.configs.push_back(loaded.config);
    open.starts.push_back(status.checkpoint.value_or(0));
  }
  return open;
}

ExitCode carry_out_here(const std::vector<Member>& members, const LocalLauncher& launcher, const Host& host) {
  Board board(members, launcher.progress, host.log);
  const auto [open, configs, starts] = open_runs(members);
  for (std::size_t i = 0; i < members.size(); ++i) {
    if (!std::binary_search(open.begin(), open.end(), i)) board.see(i);
  }
  if (open.size() < members.size()) host.log.info("{}", board.counts());
  auto max_pack = launcher.max_pack;
  if (max_pack == 0 && !configs.empty()) {
    const bool may_use_gpu = configs[0].device != "cpu" && !driver_cuda_version().empty();  // who cannot need not measure
    const auto cost = may_use_gpu ? cost_of_step(configs[0], launcher.gpus) : std::nullopt;
    max_pack = default_max_pack(cost, configs.size(), launcher.jobs);
  }
  const auto packs = packs_of(configs, starts, max_pack);
  PreparedData prepared(configs);
  PoolTasks tasks;
  tasks.count = packs.size();
  tasks.work = [&](std::size_t task, std::size_t place) {
    show_gpu(launcher.gpus, place);
    std::vector<Member> own;
    for (const auto i : packs[task]) own.push_back(members[open[i]]);
    auto quiet = host;
    quiet.log = Log(LogLevel::warning);
    quiet.progress = ProgressStyle::none;
    quiet.prepared = [&](const RunConfig& config, std::int64_t phase) { return prepared.find(config, phase); };
    return carry_out_pack(own, quiet);
  };
  tasks.before = [&](std::size_t task) {
    for (const auto i : packs[task]) prepared.prepare(configs[i], host.stop);
  };
  tasks.started = [&](std::size_t task) {
    for (const auto i : packs[task]) board.start(open[i]);
  };
  tasks.ended = [&](std::size_t task, const WorkerEnd& end) {
    std::vector<bool> reported(packs[task].size());
    for (const auto& report : end.reports) {
      reported[report.member] = true;
      board.end(open[packs[task][report.member]], report);
    }
    const auto words = end.last_words.empty() ? std::string() : ": " + end.last_words.substr(0, end.last_words.find_last_not_of('\n') + 1);
    bool all_reported = true;
    for (std::size_t i = 0; i < reported.size(); ++i) {
      if (reported[i]) continue;
      all_reported = false;
      board.end(open[packs[task][i]], {i, end.killed ? ExitCode::resources : ExitCode::bug, fmt::format("its worker was {}{}", end.death, words)});
    }
    if (all_reported && !words.empty()) host.log.warning("{}{}", *configs[packs[task][0]].run, words);
  };
  tasks.tick = [&] { board.tick(); };
  tasks.stop = host.stop;
  run_workers(tasks, launcher.jobs);
  if (tasks.count > 0) host.log.info("{}", board.counts());
  return board.code();
}

ExitCode carry_out_and_log(const std::vector<Member>& members, const Host& host) {
  Board board(members, ProgressStyle::none, host.log);
  for (const auto& report : carry_out_pack(members, host)) board.end(report.member, report);
  return board.code();
}

std::optional<StepCost> cost_of_step(const RunConfig& config, const std::vector<std::string>& gpus) {
  constexpr double kSeconds = 0.3;
  std::optional<StepCost> cost;
  PoolTasks tasks;
  tasks.count = 1;
  tasks.work = [&](std::size_t, std::size_t place) -> std::vector<RunReport> {
    show_gpu(gpus, place);
    at::set_num_threads(static_cast<int>(config.threads));
    Pack pack(std::vector<RunConfig>{config});
    const auto table = table_of_phase(config, pack.law(0), 0);
    pack.begin_phase(0, table);
    pack.step(0);
    const auto begin = Clock::now();
    std::int64_t steps = 1;
    for (; seconds_since(begin) < kSeconds; ++steps) pack.step(steps);
    static_cast<void>(pack.finite(0));  // waits for the device
    const double seconds = seconds_since(begin) / static_cast<double>(steps);
    std::size_t max_pack = 1;
    if (const auto device = pack.device().device; !device.is_cpu()) {
      const auto memory = gpu_memory(device.index());
      max_pack += static_cast<std::size_t>(0.8 * static_cast<double>(memory.free) / static_cast<double>(memory.taken));
    }
    return {{0, ExitCode::done, fmt::format("{} {}", seconds, max_pack)}};
  };
  tasks.ended = [&](std::size_t, const WorkerEnd& end) {
    if (end.reports.empty()) return;
    cost.emplace();
    std::istringstream(end.reports[0].message) >> cost->seconds >> cost->max_pack;
  };
  run_workers(tasks, 1);
  return cost;
}

std::size_t default_max_pack(const std::optional<StepCost>& cost, std::size_t runs, std::size_t jobs) {
  return cost ? std::min(cost->max_pack, (runs + jobs - 1) / jobs) : 1;
}

}  // namespace mnemo
