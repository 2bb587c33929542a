#include "core/adam.h"
#include "core/device.h"
#include "core/npy.h"
#include "core/threads.h"
#include "experiments/commands/commands.h"
#include "experiments/run/evaluate.h"
#include "experiments/run/trainer.h"
#include "experiments/run/weights.h"
#include "models/make_model.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>
#include <torch/torch.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <numeric>
#include <system_error>

namespace mnemo {

namespace {

constexpr std::int64_t kDumpedSteps = 20;     // losses that a peer is checked on
constexpr std::int64_t kDumpedBatches = 512;  // peers repeat them; our own draws go on

/// One size of a benchmark; what it measures is a training step, or one evaluation of `batch` sequences.
struct Setting {
  std::string_view benchmark, name;
  std::int64_t heads, width;  // head_dim of a transformer, slots of an associative memory
  std::int64_t length, batch, num_sequences;

  bool evaluates() const { return benchmark == "evaluate"; }
  bool is_dam() const { return benchmark == "dam"; }
  bool is_gpt() const { return benchmark == "gpt"; }
  bool has_dead_units() const { return !is_dam() && !is_gpt(); }
};
constexpr Setting kSettings[] = {
    {"one_layer", "A", 1, 16, 100, 256, 100'000},
    {"one_layer", "B", 2, 64, 100, 256, 100'000},
    {"one_layer", "C", 4, 16, 20, 32, 256},
    {"one_layer", "D", 1, 64, 100, 256, 100'000},
    {"one_layer", "E", 18, 64, 100, 256, 100'000},
    {"gpt", "A", 4, 16, 100, 256, 100'000},
    {"gpt", "C", 4, 16, 20, 32, 256},
    {"evaluate", "A", 1, 16, 100, 10'000, 10'000},
    {"evaluate", "B", 2, 64, 100, 10'000, 10'000},
    {"evaluate", "D", 1, 64, 100, 100'000, 100'000},
    {"evaluate", "L16", 4, 16, 16, 100'000, 100'000},
    {"dam", "S", 30, 3000, 50, 50, 500},
    {"dam", "T", 8, 2048, 20, 32, 256},
    {"dam", "U", 32, 100'000, 32, 256, 1000},
    {"dam", "V", 100, 500'000, 100, 1000, 10'000},
    {"dam", "W", 32, 100'000, 32, 256, 1'000'000},
};

struct BenchRequest {
  std::string benchmark, name, device = "cpu", precision = "fp32", dump;
  std::int64_t threads = 1, replicas = 1, rounds = 7, warmup = 300, num_sequences = 0, capacity = 0;
  double seconds = 1;
  bool json = false, paced = false, plain_cells = false, all_units = false;
};

/// Which savings are on (MATHS 2.2, and the lists of live units of the CPU step).
struct Savings {
  bool cells = true, dead_units = true;
};

/// Peak resident memory since the last call, MB: resets the kernel's mark.
double peak_rss_mb() {
  double kilobytes = 0;
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with("VmHWM:")) kilobytes = std::stod(line.substr(6));
  }
  std::ofstream("/proc/self/clear_refs") << 5;
  return kilobytes / 1024;
}

/// A model, its optimizer and its data, as a run has them, without the run.
class Workload {
 public:
  Workload(const Setting& setting, const BenchRequest& request, Savings savings)
      : setting_(setting),
        device_(choose_device(request.device, std::numeric_limits<double>::infinity(), request.precision == "tf32").device),
        sharing_(savings.cells ? Sharing::prefixes : Sharing::none),
        sampler_(RankSampler::zipf(num_sequences(request), setting.is_dam() ? 0 : 1)),
        table_(SequenceTable::random(0, 0, num_sequences(request), setting.length)),
        ranks_(strided_ranks(std::min(setting.batch, table_.num_sequences()), 1)) {
    if (request.precision == "tf32" && device_.is_cpu()) throw Error(ExitCode::config, "precision tf32 is of a GPU");
    at::set_num_threads(static_cast<int>(request.threads));
    std::vector<ModelConfig> replicas;
    std::vector<TrainingData> data;
    for (std::int64_t r = 0; r < request.replicas; ++r) {
      replicas.push_back(model_of(request));
      seed_of(replicas.back()) = static_cast<std::uint32_t>(r);
      data.push_back({&table_, DrawStream(sampler_, static_cast<std::uint32_t>(r), setting.batch)});
    }
    model_ = make_model(replicas, setting.length, torch::kFloat32, device_);
    model_->forms.skip_dead_units = savings.dead_units;
    model_->forms.tf32 = request.precision == "tf32";
    adam_ =
        std::make_unique<Adam>(model_->parameters, std::vector<AdamScalars>(replicas.size(), {setting.is_dam() ? 1e-2 : 1e-3, 0.9, 0.999, 1e-8, 0}));
    trainer_ = std::make_unique<Trainer>(*model_, *adam_, std::move(data), sharing_);
    if (setting.is_dam()) fill_memory(std::get<DamConfig>(replicas[0]).slots());
  }

  /// Does the work once. Returns the mean loss; waits for the device only where `wanted`.
  double work(bool wanted) {
    if (setting_.evaluates()) {
      const auto scores = score(*model_, table_, ranks_, {}, {.sharing = sharing_});
      return std::accumulate(scores.loss.begin(), scores.loss.end(), 0.0) / static_cast<double>(scores.loss.size());
    }
    const auto losses = trainer_->step(step_++);
    return wanted ? losses.loss_R[0].item<double>() : 0;
  }

  /// What a peer needs to do the same work: weights.safetensors, of further replicas weights_1.safetensors ...; sequences.npy (K, L), batches.npy
  /// (steps, B), losses.npy (steps), both with an axis R after the first where there are many replicas; and of an associative memory the ids in its
  /// slots, the oldest first: memory.npy (M). Called on new weights; goes on from there.
  void dump(const fs::path& folder) {
    make_directories(folder);
    const auto replicas = model_->parameters.num_replicas();
    for (std::int64_t r = 0; r < replicas; ++r) {
      write_weights(folder / (r == 0 ? "weights.safetensors" : fmt::format("weights_{}.safetensors", r)), *model_->replica(r), {});
    }
    const auto bits = table_.unpack_all();
    write_npy(folder / "sequences.npy", view_of(bits.data(), {table_.num_sequences(), table_.length()}));
    if (setting_.is_dam()) write_npy(folder / "memory.npy", view_of(stored_.data(), {std::ssize(stored_)}));
    const auto batches = setting_.evaluates() ? ranks_ : batches_to_come();
    const auto rows = static_cast<std::int64_t>(batches.size()) / setting_.batch;
    write_npy(folder / "batches.npy", view_of(batches.data(), of_replicas({rows / replicas, setting_.batch})));
    std::vector<double> losses;
    if (setting_.evaluates()) losses.push_back(work(true));
    while (std::ssize(losses) < (setting_.evaluates() ? 1 : kDumpedSteps * replicas)) {
      const auto loss_R = trainer_->step(step_++).loss_R.to(torch::kCPU, torch::kFloat64).contiguous();
      losses.insert(losses.end(), loss_R.data_ptr<double>(), loss_R.data_ptr<double>() + replicas);
    }
    write_npy(folder / "losses.npy", view_of(losses.data(), of_replicas({std::ssize(losses) / replicas})));
  }

  torch::Device device() const { return device_; }

 private:
  ModelConfig model_of(const BenchRequest& request) const {
    if (setting_.is_dam()) {
      DamConfig config;
      config.heads = setting_.heads;
      config.capacity = request.capacity > 0 ? request.capacity : setting_.width;
      config.probabilities = "clamped";
      return config;
    }
    if (setting_.is_gpt()) {
      GptConfig config;
      config.heads = setting_.heads;
      config.head_dim = setting_.width;
      return config;
    }
    OneLayerAttentionConfig config;
    config.heads = setting_.heads;
    config.head_dim = setting_.width;
    return config;
  }

  /// The ranks that every replica will draw, [steps, R, B].
  std::vector<std::int32_t> batches_to_come() const {
    std::vector<DrawStream> streams;
    for (std::int64_t r = 0; r < model_->parameters.num_replicas(); ++r)
      streams.emplace_back(sampler_, static_cast<std::uint32_t>(r), setting_.batch);
    std::vector<std::int32_t> batches;
    for (std::int64_t step = 0; step < kDumpedBatches; ++step) {
      for (auto& draws : streams) {
        const auto drawn = draws.ranks(step);
        batches.insert(batches.end(), drawn.begin(), drawn.end());
      }
    }
    return batches;
  }

  /// A shape with R after the first axis, of many replicas.
  std::vector<std::int64_t> of_replicas(std::vector<std::int64_t> shape) const {
    if (const auto replicas = model_->parameters.num_replicas(); replicas > 1) shape.insert(shape.begin() + 1, replicas);
    return shape;
  }

  /// Fills the memory as after many steps, that of every replica with the draws of replica 0.
  void fill_memory(std::int64_t capacity) {
    DrawStream draws(sampler_, ~0U, setting_.batch);
    for (std::int64_t step = 0; std::ssize(stored_) < capacity; ++step) {
      const auto drawn = draws.ranks(step);
      stored_.insert(stored_.end(), drawn.begin(), drawn.end());
    }
    stored_.erase(stored_.begin(), stored_.end() - capacity);
    for (std::int64_t r = 0; r < model_->parameters.num_replicas(); ++r) model_->memory()->observe(r, stored_);
  }

  std::int64_t num_sequences(const BenchRequest& request) const { return request.num_sequences > 0 ? request.num_sequences : setting_.num_sequences; }

  const Setting& setting_;
  torch::Device device_;
  Sharing sharing_;
  RankSampler sampler_;
  SequenceTable table_;
  std::vector<std::int32_t> ranks_, stored_;
  std::unique_ptr<Model> model_;
  std::unique_ptr<Adam> adam_;
  std::unique_ptr<Trainer> trainer_;
  std::int64_t step_ = 0;
};

/// Prints a line and flushes it: somebody may wait for it.
void print_line(const nlohmann::ordered_json& line) {
  fmt::print("{}\n", line.dump());
  if (std::fflush(stdout) != 0) throw std::system_error(errno, std::generic_category(), "standard output");
}

/// Steps a second of one round of at least `seconds`; `steps` is doubled until it lasts that long.
double measure(Workload& workload, std::int64_t& steps, double seconds) {
  while (true) {
    const auto start = std::chrono::steady_clock::now();
    for (std::int64_t n = 1; n <= steps; ++n) workload.work(n == steps);
    const auto passed = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    if (passed >= seconds) return static_cast<double>(steps) / passed;
    steps *= 2;
  }
}

void bench_one(const Setting& setting, const BenchRequest& request, Savings savings) {
  peak_rss_mb();
  Workload workload(setting, request, savings);
  if (!request.dump.empty()) workload.dump(request.dump);
  const bool gets_cheaper = !setting.evaluates() && !setting.is_gpt();
  for (std::int64_t n = 0; gets_cheaper && n < request.warmup; ++n) workload.work(false);
  std::int64_t steps = 1;
  measure(workload, steps, request.seconds / 2);
  std::vector<double> rates;
  if (request.paced) print_line({{"ready", true}});
  for (std::int64_t round = 0; round < request.rounds; ++round) {
    if (std::string line; request.paced && !std::getline(std::cin, line)) break;
    rates.push_back(measure(workload, steps, request.seconds / 2));
    if (request.paced) print_line({{"steps_per_s", rates.back()}});
  }
  if (rates.empty()) return;
  std::sort(rates.begin(), rates.end());
  const nlohmann::ordered_json line{{"name", setting.benchmark},
                                    {"config", setting.name},
                                    {"device", workload.device().str()},
                                    {"threads", request.threads},
                                    {"precision", request.precision},
                                    {"replicas", request.replicas},
                                    {"compressed", savings.cells},
                                    {"dead_units", savings.dead_units},
                                    {"steps_per_s", rates[rates.size() / 2]},
                                    {"min", rates.front()},
                                    {"max", rates.back()},
                                    {"rows_per_step", setting.batch * request.replicas},
                                    {"peak_rss_mb", peak_rss_mb()}};
  if (request.json) {
    print_line(line);
  } else {
    fmt::print("{:<10} {:<4} {:>8.3f} ms ({:.3f} to {:.3f})  cells {:<8} dead units {:<8} {} on {}, {} thread{}, peak {:.0f} MB\n", setting.benchmark,
               setting.name, 1e3 / rates[rates.size() / 2], 1e3 / rates.back(), 1e3 / rates.front(), savings.cells ? "shared" : "all",
               savings.dead_units ? "skipped" : "computed", request.precision, workload.device().str(), request.threads,
               request.threads == 1 ? "" : "s", line["peak_rss_mb"].get<double>());
  }
}

ExitCode bench(const BenchRequest& request) {
  wait_without_spinning(request.threads);
  bool found = false;
  for (const auto& setting : kSettings) {
    if (setting.benchmark != request.benchmark || (!request.name.empty() && setting.name != request.name)) continue;
    found = true;
    const Savings asked{!request.plain_cells, !request.all_units};
    const bool one_by_one = request.name.empty();
    for (const auto savings :
         one_by_one ? std::vector<Savings>{{true, true}, {true, false}, {false, true}, {false, false}} : std::vector<Savings>{asked}) {
      if (one_by_one && !setting.has_dead_units() && !savings.dead_units) continue;
      bench_one(setting, request, savings);
    }
  }
  if (!found)
    throw Error(ExitCode::usage, fmt::format("bench {} has no configuration '{}'; see mnemo bench --help", request.benchmark, request.name));
  return ExitCode::done;
}

}  // namespace

void add_bench(CLI::App& app, Command& chosen) {
  auto* command = app.add_subcommand("bench", "Speed of a training step or of an evaluation");
  command->footer(
      "Configurations (heads x width of a head, L bits, B rows, K sequences, 3 MLP layers, fp32):\n"
      "  one_layer   A: 1x16 L=100 B=256 K=1e5   B: 2x64, same   C: 4x16 L=20 B=32 K=256     one training step\n"
      "              D: 1x64, E: 18x64, else as A\n"
      "  gpt         A: 4 layers of 4x16 L=100 B=256 K=1e5   C: L=20 B=32 K=256                  one training step\n"
      "  dam         S: 30 heads, M=3000, L=50 B=50 K=500, uniform   T: 8 heads, M=2048, L=20 B=32 K=256; the memory is full\n"
      "              U: 32 heads, M=1e5, L=32 B=256 K=1e3   W: K=1e6, else as U   V: 100 heads, M=5e5, L=100 B=1000 K=1e4\n"
      "  evaluate    A, B: 10,000 sequences, L=100   D: 100,000   L16: 100,000 sequences, L=16, 4x16      all of them once\n"
      "Without --config: all of them, with and without shared cells and skipped dead units.\n"
      "Examples:\n"
      "  mnemo bench one_layer --config A --threads 2\n"
      "  mnemo bench one_layer --json\n"
      "Beside PyTorch and JAX, on the same numbers: scripts/bench_peers.py");
  auto request = std::make_shared<BenchRequest>();
  command->add_option("benchmark", request->benchmark, "one_layer, gpt, dam or evaluate")
      ->required()
      ->check(CLI::IsMember({"one_layer", "gpt", "dam", "evaluate"}));
  command->add_flag("--json", request->json, "one JSON object a line");
  command->add_option("--config", request->name, "one configuration");
  add_number(command, "--threads", request->threads, in_range(1, 1024));
  command->add_option("--device", request->device, "auto, cpu, cuda or cuda:N")->capture_default_str();
  command->add_option("--precision", request->precision, "fp32, or on a GPU tf32")->capture_default_str()->check(CLI::IsMember({"fp32", "tf32"}));
  add_number(command, "--replicas", request->replicas, in_range(1, 4096), "models that step together");
  add_number(command, "--rounds", request->rounds, in_range(1, 1000), "rounds measured; median, min and max are over them");
  add_number(command, "--seconds", request->seconds, in_range(0, 86400, true, /*include_low=*/false), "length of a round, at least half of this");
  add_number(command, "--warmup", request->warmup, in_range(0, 1e9), "training steps before: units die, and steps get cheaper");
  add_number(command, "--sequences", request->num_sequences, in_range(1, 2147483647), "K, instead of the configuration's")->default_str("");
  add_number(command, "--capacity", request->capacity, in_range(1, 1 << 30), "slots of an associative memory, instead of the configuration's")
      ->default_str("");
  command->add_flag("--plain-cells", request->plain_cells, "with --config: every row and position, nothing shared");
  command->add_flag("--all-units", request->all_units, "with --config: dead units are computed too");
  command->add_option("--dump", request->dump, "with --config: folder for initial weights, sequences, batches and the first losses")
      ->transform(home_expanded())
      ->needs("--config");
  command->add_flag("--paced", request->paced, "each round waits for a line on standard input, for interleaved measurements");
  command->callback([=, &chosen] { chosen = [=] { return bench(*request); }; });
}

}  // namespace mnemo
