#include "experiments/run/worker.h"

#include "experiments/directory/run_json.h"
#include "experiments/directory/run_reader.h"
#include "experiments/run/pack.h"
#include "experiments/run/run.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <torch/torch.h>

#include <cmath>
#include <ctime>
#include <new>

namespace mnemo {

namespace {

/// cache/<group>/<run> -> cache/<group>/.old/<run>.<k>, the first free k.
void move_aside(const fs::path& directory, const Log& log) {
  const auto old = directory.parent_path() / ".old";
  make_directories(old);
  for (int k = 1;; ++k) {
    const auto target = old / fmt::format("{}.{}", directory.filename().string(), k);
    if (path_exists(target)) continue;
    std::error_code failure;
    fs::rename(directory, target, failure);
    if (failure)
      throw Error(ExitCode::cannot_create, fmt::format("{}: cannot move to {}: {}", directory.string(), target.string(), failure.message()));
    log.info("the earlier run is now {}", target.string());
    return;
  }
}

/// Whether there is anything of a run to move aside.
bool holds_run(const fs::path& directory) {
  return path_exists(directory / "config.yaml") || path_exists(directory / "meta.json") || RunDirectory(directory).result();
}

/// Where the file system has no locks, the heartbeat of a run shows that another process works on it.
void refuse_living_run(const fs::path& directory, const Log& log) {
  constexpr std::int64_t kLost = 60;  // seconds
  const auto status = read_status(directory);
  const auto age = static_cast<std::int64_t>(std::time(nullptr)) - status.heartbeat;
  if (status.state == "running" && std::abs(age) < kLost) {
    throw Error(ExitCode::locked,
                fmt::format("{}: this file system has no locks, and a process worked here {} s ago. If it was killed, try again in a minute",
                            directory.string(), age));
  }
  log.warning("{}: this file system has no locks; make sure that only one process works here", directory.string());
}

/// The configuration that a directory was made with. Throws where that is another run, or one that diverged.
std::optional<RunConfig> earlier_config(const fs::path& directory, LoadedConfig& loaded) {
  if (!path_exists(directory / "config.yaml")) return {};
  auto previous = stored_config(directory);
  auto& config = loaded.config;
  if (!loaded.threads_given) config.threads = previous.threads;  // sums differ between thread counts
  if (const auto found = differences(previous, config); !found.empty()) {
    throw Error(ExitCode::config, fmt::format("{} holds a run with other settings:\n  {}\nGive this one another name (name: ...), "
                                              "override on the command line (a.b=value names the run), or move the old one aside with --restart",
                                              directory.string(), fmt::join(found, "\n  ")));
  }
  const auto status = read_status(directory);
  if (status.state == "diverged") {
    throw Error(ExitCode::diverged, fmt::format("{}: this run diverged at step {}. Other settings (train.lr, model.init_std) make another run; "
                                                "--restart repeats this one",
                                                directory.string(), status.step));
  }
  return previous;
}

/// A directory, locked, and the configuration that it was made with.
struct Place {
  std::optional<DirectoryLock> lock;
  std::optional<RunConfig> previous;
  bool is_over = false;
};

void take_place(Member& member, const Log& log, Place& place) {
  const auto& directory = member.directory;
  const auto look = [&] {
    place.previous = earlier_config(directory, member.loaded);
    place.is_over = place.previous && is_over(directory, member.loaded.config);
  };
  try {
    place.lock.emplace(directory);
  } catch (const Error& error) {  // a finished run can be read even where nothing can be written
    if (error.code() == ExitCode::locked || member.restart) throw;
    look();
    if (!place.is_over) throw;
    return;
  }
  if (place.lock->unsupported()) refuse_living_run(directory, log);
  if (member.restart && holds_run(directory)) {
    move_aside(directory, log);
    place.lock.emplace(directory);
  }
  look();
  if (place.is_over && !path_exists(directory / "run.json"))
    write_atomically(directory / "run.json", run_json(*place.previous));  // an older version's
}

/// Out of memory as LibTorch reports it (a CPU allocation is a plain c10::Error).
bool is_out_of_memory(const std::exception& error) {
  return dynamic_cast<const std::bad_alloc*>(&error) != nullptr || dynamic_cast<const c10::OutOfMemoryError*>(&error) != nullptr ||
         std::string_view(error.what()).find("not enough memory") != std::string_view::npos;
}

/// The error of a run as an Error, unless it is a bug.
std::exception_ptr as_error(std::exception_ptr error, const RunConfig& config, const std::string& device) {
  try {
    std::rethrow_exception(error);
  } catch (const Error&) {
    return error;
  } catch (const std::exception& failure) {
    const bool is_full = is_out_of_memory(failure);
    if (!is_full && !is_device_error(failure)) return error;
    const std::string_view text = failure.what();
    return std::make_exception_ptr(
        Error(ExitCode::resources,
              fmt::format("device {}: {} with {} sequences of {} bits, batch {}, {}. {}", device,
                          is_full ? "out of memory" : text.substr(0, text.find('\n')), config.data.num_sequences, config.data.length,
                          config.train.batch_size, facts_of(config).description(),
                          is_full ? "Nothing was made smaller for you" : "The last checkpoint is intact: the same command goes on from there")));
  }
}

}  // namespace

bool is_over(const fs::path& directory, const RunConfig& config) {
  const auto status = read_status(directory);
  const bool at_end = (status.state == "done" && status.step == config.train.steps) || status.state == "at_chance";
  return at_end && path_exists(directory / "final.safetensors");
}

std::vector<MemberResult> carry_out(std::vector<Member> members, const Host& host) {
  std::vector<MemberResult> results(members.size());
  std::vector<Place> places(members.size());
  std::vector<std::size_t> rows;      // which member each row of the pack is
  std::optional<std::string> device;  // once there is one
  const auto told = [&](std::exception_ptr error, const RunConfig& config) { return as_error(error, config, device.value_or(config.device)); };
  const auto failed = [&](std::size_t i) { results[i].error = told(std::current_exception(), members[i].loaded.config); };
  for (std::size_t i = 0; i < members.size(); ++i) {
    try {
      take_place(members[i], host.log, places[i]);
      results[i].was_over = places[i].is_over;
      if (!places[i].is_over) rows.push_back(i);
    } catch (...) {
      failed(i);
    }
    results[i].config = members[i].loaded.config;
  }
  if (rows.empty()) return results;
  try {
    std::vector<RunConfig> configs;
    for (const auto i : rows) configs.push_back(results[i].config);
    Pack pack(configs);
    device = fmt::format("{} ({})", pack.device().device.str(), device_name(pack.device().device));
    std::vector<std::unique_ptr<Run>> runs;
    for (std::size_t row = 0; row < rows.size(); ++row) {
      const auto i = rows[row];
      auto own = host;
      own.log = host.log.with_file(members[i].directory / "log.txt");
      if (row > 0) own.progress = ProgressStyle::none;  // only one progress line on the terminal
      auto run = std::make_unique<Run>(results[i].config, members[i].directory, std::move(own), pack, static_cast<std::int64_t>(row));
      try {
        if (!run->open(places[i].previous)) {
          results[i].code = ExitCode::stopped;
          run.reset();
        }
      } catch (...) {
        failed(i);
        run.reset();
      }
      runs.push_back(std::move(run));
    }
    const auto outcomes = train(pack, runs);
    for (std::size_t row = 0; row < rows.size(); ++row) {
      if (!runs[row]) continue;
      auto& result = results[rows[row]];
      result.code = outcomes[row].code;
      if (outcomes[row].error) result.error = told(outcomes[row].error, result.config);
    }
  } catch (...) {
    for (const auto i : rows) {
      if (!results[i].error) failed(i);
    }
  }
  return results;
}

}  // namespace mnemo
