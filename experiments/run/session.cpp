#include "experiments/run/session.h"

#include "core/error.h"
#include "core/log.h"
#include "core/shell.h"
#include "experiments/run/attention_measures.h"
#include "experiments/record/notebook_pickle.h"
#include "experiments/directory/summary.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <torch/torch.h>

#include <cmath>
#include <cstdlib>
#include <ctime>
#include <new>
#include <numeric>

namespace mnemo {

namespace {

/// The run directory of a request. A config.yaml that stands in its own run directory means that directory, unless --cache is given.
fs::path directory_of(const TrainRequest& request, const RunConfig& config) {
  const auto folder = fs::absolute(request.config_path).parent_path();
  const bool own = request.config_path.filename() == "config.yaml" && path_exists(folder / "meta.json");
  if (own && !request.cache) return folder;
  return request.cache.value_or(default_cache()) / *config.group / *config.run;
}

/// cache/<group>/<run> -> cache/<group>/.old/<run>.<k>, the first free k.
void move_aside(const fs::path& directory) {
  const auto old = directory.parent_path() / ".old";
  make_directories(old);
  for (int k = 1;; ++k) {
    const auto target = old / fmt::format("{}.{}", directory.filename().string(), k);
    if (path_exists(target)) continue;
    std::error_code failure;
    fs::rename(directory, target, failure);
    if (failure) throw Error(ExitCode::cannot_create, fmt::format("{}: cannot move to {}: {}", directory.string(), target.string(), failure.message()));
    log_info("the earlier run is now {}", target.string());
    return;
  }
}

/// Anything of a run, as far as it got: else there is nothing to move aside.
bool holds_run(const fs::path& directory) {
  return path_exists(directory / "config.yaml") || path_exists(directory / "meta.json") || RunDirectory(directory).result();
}

/// Where the file system has no locks, the heartbeat of a run shows that another process works on it.
void refuse_living_run(const fs::path& directory) {
  constexpr std::int64_t kLost = 60;  // seconds
  const auto status = read_status(directory);
  const auto age = static_cast<std::int64_t>(std::time(nullptr)) - status.heartbeat;
  if (status.state == "running" && std::abs(age) < kLost) {
    throw Error(ExitCode::locked, fmt::format("{}: this file system has no locks, and a process worked here {} s ago. If it was killed, try again in a minute",
                                              directory.string(), age));
  }
  log_warning("{}: this file system has no locks; make sure that only one process works here", directory.string());
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
                                                "--restart repeats this one", directory.string(), status.step));
  }
  return previous;
}

bool is_over(const fs::path& directory, const RunConfig& config) {
  const auto status = read_status(directory);
  const bool at_end = (status.state == "done" && status.step == config.train.steps) || status.state == "at_chance";
  return at_end && path_exists(directory / "final.safetensors");
}

std::string megabytes(double bytes) {
  return bytes >= 1e9 ? fmt::format("{:.1f} GB", bytes / 1e9) : fmt::format("{:.1f} MB", bytes / 1e6);
}

/// Bytes that a run will write, by kind; at most.
void print_plan(const RunConfig& config, const fs::path& directory) {
  // own data that is no good is refused now rather than when the run starts
  if (config.data.weights) sampler_of(config);
  if (config.data.file) first_table(config);
  const auto facts = facts_of(config);
  const auto K = static_cast<double>(config.data.num_sequences), L = static_cast<double>(config.data.length);
  const auto parameters = static_cast<double>(facts.num_parameters()) * (config.precision == "fp64" ? 8 : 4);
  const auto steps = config.train.steps;
  const auto count = [&](const auto& is_counted) {
    std::int64_t total = 0;
    for (const auto& event : config.events) total += is_counted(event) ? schedule_of(event).occurrences(steps) : 0;
    return static_cast<double>(total);
  };
  const double phases = 1 + count([](const auto& event) { return std::holds_alternative<SwitchEvent>(event); });
  const double snapshots = 1 + count([](const auto& event) { return std::holds_alternative<SnapshotEvent>(event); });
  const double evaluations = static_cast<double>(2 + (steps - 1) / config.eval.every) + 2 * count(changes_data_or_weights);
  const double rows = K / static_cast<double>(config.eval.train_stride) + phases * K / static_cast<double>(config.eval.validation_stride) +
                      static_cast<double>(config.eval.novel);
  const double swap_tests = count([](const auto& event) { return std::holds_alternative<SwapTestEvent>(event); });
  double sets = (evaluations + swap_tests) * rows * 24;  // presentations, last_seen, loss, accuracy
  double features = 0;
  const auto& widths = facts.hidden_widths;
  for (const auto& event : config.events) {
    if (const auto* e = std::get_if<FeaturesEvent>(&event)) {
      features += static_cast<double>(e->schedule.occurrences(steps) * e->sequences) * std::ceil((L - 1) / static_cast<double>(e->stride)) * 4 *
                  std::accumulate(widths.begin(), widths.end(), 0.0);
    }
  }
  if (config.eval.completion) sets += evaluations * rows;
  if (config.eval.by_position) sets += evaluations * 8 * L * static_cast<double>(rank_bins(config.data.num_sequences).size()) * (2 + phases);
  double attention = 0;
  for (const auto& name : config.eval.attention) {
    const auto ranks = (config.data.num_sequences - 1) / config.eval.train_stride + 1;
    attention += 4 * evaluations * static_cast<double>(num_elements(attention_measure_shape(name, facts.attention_heads, config.data.length, ranks)));
  }
  const double checkpoint = 3 * parameters + 16 * K * phases;
  fmt::print("run        {}\n", directory.string());
  fmt::print("model      {}\n", facts.description());
  fmt::print("data       {} sequences of {} bits, {} phase(s)\n", config.data.num_sequences, config.data.length, phases);
  fmt::print("schedule   {} steps of {} sequences, at most {} evaluations\n", config.train.steps, config.train.batch_size, evaluations);
  fmt::print("disk       eval {}, attention {}, checkpoints {}, weights {}, sequences {}, pickles {}\n", megabytes(sets), megabytes(attention),
             megabytes(checkpoint * static_cast<double>(config.output.keep + 1)), megabytes(parameters * snapshots),
             megabytes(config.output.sequences ? phases * K * L : 0), megabytes(notebook_bytes(config)));
  if (features > 0) fmt::print("           features {}\n", megabytes(features));
  if (notebook_bytes(config) == 0 && !config.output.pickle) fmt::print("no pickles {}\n", notebook_problems(config).front().second);
  fmt::print("nothing was written\n");
}

/// Out of memory as LibTorch reports it (a CPU allocation is a plain c10::Error).
bool is_out_of_memory(const std::exception& error) {
  return dynamic_cast<const std::bad_alloc*>(&error) != nullptr || dynamic_cast<const c10::OutOfMemoryError*>(&error) != nullptr ||
         std::string_view(error.what()).find("not enough memory") != std::string_view::npos;
}

ExitCode run_to_end(const RunConfig& config, const std::optional<RunConfig>& previous, const fs::path& directory, const RunOptions& options) {
  auto device = config.device;
  try {
    Pack pack({&config, 1});
    device = fmt::format("{} ({})", pack.device().device.str(), device_name(pack.device().device));
    std::vector<std::unique_ptr<Run>> runs;
    runs.push_back(std::make_unique<Run>(config, directory, options, pack, 0));
    if (!runs[0]->open(previous)) return ExitCode::stopped;
    const auto outcome = train(pack, runs)[0];
    if (outcome.error) std::rethrow_exception(outcome.error);
    return outcome.code;
  } catch (const Error&) {
    throw;
  } catch (const std::exception& error) {
    const bool is_full = is_out_of_memory(error);
    if (!is_full && !is_device_error(error)) throw;
    const std::string_view text = error.what();
    throw Error(ExitCode::resources,
                fmt::format("device {}: {} with {} sequences of {} bits, batch {}, {}. {}", device, is_full ? "out of memory" : text.substr(0, text.find('\n')),
                            config.data.num_sequences, config.data.length, config.train.batch_size, facts_of(config).description(),
                            is_full ? "Nothing was made smaller for you" : "The last checkpoint is intact: the same command goes on from there"));
  }
}

void print_result(const fs::path& directory, const RunConfig& config) {
  print_summary(directory, config);
  if (const auto status = read_status(directory); status.state == "at_chance") {
    fmt::print("at chance: ended at step {} of {} by train.stop_if. Another train.lr, or train.stop_if=null, makes another run\n", status.step,
               config.train.steps);
  }
}

/// A command of this program about a file or folder of a run, for a shell in any folder.
std::string command_of(const TrainRequest& request, const std::string& verb, const fs::path& path) {
  return fmt::format("{} {} {}", quoted(request.options.program), verb, quoted(canonical_path(path).string()));
}

}  // namespace

fs::path default_cache() {
  const char* root = std::getenv("MNEMO_CACHE");
  return root != nullptr && *root != '\0' ? expanded_path(root) : fs::path("cache");
}

RunConfig stored_config(const fs::path& run_directory) {
  const auto path = run_directory / "config.yaml";
  if (!path_exists(path)) throw Error(ExitCode::data, fmt::format("{}: is no run directory (it has no config.yaml)", run_directory.string()));
  return load_config(path, {}, /*with_weights=*/false).config;
}

std::int64_t threads_of(const TrainRequest& request) {
  const auto loaded = load_config(request.config_path, request.overrides, /*with_weights=*/false);
  const auto directory = directory_of(request, loaded.config);
  const bool has_run = !request.restart && path_exists(directory / "config.yaml");
  return loaded.threads_given || !has_run ? loaded.config.threads : stored_config(directory).threads;
}

ExitCode train(const TrainRequest& request) {
  auto loaded = load_config(request.config_path, request.overrides);
  const auto directory = directory_of(request, loaded.config);
  if (request.dry_run) {
    print_plan(loaded.config, directory);
    return ExitCode::done;
  }
  log_to_terminal(request.options.progress == ProgressStyle::none ? LogLevel::warning : LogLevel::info);
  auto& config = loaded.config;
  const auto already_done = [&] {
    print_result(directory, config);
    fmt::print("already done: {}\n", directory.string());
    return ExitCode::done;
  };
  std::optional<DirectoryLock> lock;
  try {
    lock.emplace(directory);
  } catch (const Error& error) {  // what is over can be read where nothing can be written
    const bool may_be_over = error.code() != ExitCode::locked && !request.restart;
    if (may_be_over && earlier_config(directory, loaded) && is_over(directory, config)) return already_done();
    throw;
  }
  if (lock->unsupported()) refuse_living_run(directory);
  if (request.restart && holds_run(directory)) {
    move_aside(directory);
    lock.emplace(directory);
  }
  const auto previous = earlier_config(directory, loaded);
  if (previous && is_over(directory, config)) return already_done();
  log_to_file(directory / "log.txt");
  const auto result = run_to_end(config, previous, directory, request.options);
  log_to_file({});
  if (result == ExitCode::stopped) {
    const auto hours = request.options.max_hours;
    const auto limit = hours > 0 ? " --max-hours " + config_detail::to_flow(config_detail::scalar_node(hours)) : std::string();
    fmt::print("stopped; everything up to here is saved. Resume with\n  {}{}\n", command_of(request, "train", directory / "config.yaml"), limit);
  } else {
    print_result(directory, config);
    fmt::print("results: {}\n", directory.string());
    fmt::print("next:    {}\n", command_of(request, "plot", directory));
  }
  return result;
}

}  // namespace mnemo
