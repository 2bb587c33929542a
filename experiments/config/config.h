#pragma once

#include "core/config.h"
#include "experiments/config/events.h"
#include "experiments/config/slurm_config.h"
#include "models/registry.h"

#include <array>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace mnemo {

struct DataConfig {
  std::int64_t num_sequences = 1000, length = 32;
  double zipf_exponent = 1;
  std::optional<std::string> file, weights;
  std::optional<std::uint32_t> seed;

  template <class Self, class Visit>
  static void fields(Self& self, Visit&& visit) {
    visit("num_sequences", self.num_sequences, "sequences K", in_range(1, 2147483647));
    visit("length", self.length, "bits of a sequence L", in_range(1, 65536));
    visit("zipf_exponent", self.zipf_exponent, "p of rank a is (a+1)^-s / sum; 0 = uniform", in_range(0, 64));
    visit("file", self.file, "own sequences: .npy of 0/1 integers (K, L); a switch redraws them as fair bits");
    visit("weights", self.weights, "own probabilities up to a factor: .npy (K); ranks follow them, the largest first (data_rows.npy)");
    visit("seed", self.seed, "seed of sequences and draws; null = the run's seed");
  }
};

/// Ends a run that never leaves chance: at the first log line at or after step `after`, if the train loss is still above a bound.
struct StopIfConfig {
  double train_loss_above = 0.68;
  std::int64_t after = 5000;

  template <class Self, class Visit>
  static void fields(Self& self, Visit&& visit) {
    visit("train_loss_above", self.train_loss_above, "nats; chance is ln 2 = .693", positive());
    visit("after", self.after, "the first log line from this step on decides", at_least(1));
  }
};

struct TrainConfig {
  std::int64_t steps = 20000, batch_size = 64;
  double lr = 1e-3;
  std::array<double, 2> betas{0.9, 0.999};
  double eps = 1e-8, weight_decay = 0;
  std::string decay = "coupled";
  double clip_norm = 0;
  std::string schedule = "constant";
  std::int64_t warmup = 0, log_every = 100;
  std::optional<StopIfConfig> stop_if;

  template <class Self, class Visit>
  static void fields(Self& self, Visit&& visit) {
    visit("steps", self.steps, "optimizer updates", in_range(1, 1e12));
    visit("batch_size", self.batch_size, "sequences drawn a step, with replacement", in_range(1, 1 << 24));
    visit("lr", self.lr, "learning rate of Adam: the largest, where schedule or warmup change it", positive(), at_most(1e10));
    visit("betas", self.betas, "decay rates of Adam's moments", in_range(0, 1, /*include_high=*/false));
    visit("eps", self.eps, "added to Adam's denominator", positive());
    visit("weight_decay", self.weight_decay, "pulls weights towards 0", non_negative(), at_most(1e10));
    visit("decay", self.decay,
          "coupled: weight_decay x weight joins the gradient (L2); decoupled: lr x weight_decay x weight leaves the weight (AdamW)",
          one_of({"coupled", "decoupled"}));
    visit("clip_norm", self.clip_norm,
          "norm of the longest gradient, over all parameters that are not frozen: a longer one is scaled down to it; 0 = any", non_negative());
    visit("schedule", self.schedule, "lr after the warm-up: constant, or cosine: half a cosine from lr to 0 at train.steps",
          one_of({"constant", "cosine"}));
    visit("warmup", self.warmup, "first updates of the run: update n takes lr x n / warmup; 0 = none", in_range(0, 1e12));
    visit("log_every", self.log_every, "steps between lines of metrics.jsonl", at_least(1));
    visit("stop_if", self.stop_if, "ends a run that is still at chance; null = no");
  }
};

struct CompletionConfig {
  std::int64_t prefix = 16;

  template <class Self, class Visit>
  static void fields(Self& self, Visit&& visit) {
    visit("prefix", self.prefix, "bits that are given", at_least(1));
  }
};

struct EvalConfig {
  std::int64_t every = 500, per_decade = 0, train_stride = 10, validation_stride = 1, novel = 256;
  bool by_position = false;
  std::optional<CompletionConfig> completion;
  std::vector<std::string> attention;

  template <class Self, class Visit>
  static void fields(Self& self, Visit&& visit) {
    visit("every", self.every, "steps between evaluations", at_least(1));
    visit("per_decade", self.per_decade,
          "further evaluations a decade of steps after step 0 and after each switch: 1, 10, 100, ... where it is 1; 0 = none", in_range(0, 1000));
    visit("train_stride", self.train_stride, "set `train`: every n-th rank of the current sequences", at_least(1));
    visit("validation_stride", self.validation_stride, "sets `phase_<k>`: every n-th rank of each phase", at_least(1));
    visit("novel", self.novel, "size of the set `novel` of sequences never trained on; 0 = none", in_range(0, 1 << 24));
    visit("by_position", self.by_position, "also loss and accuracy by rank bin and position");
    visit("completion", self.completion, "also whether greedy continuation from a prefix gives the sequence; null = not asked");
    visit("attention", self.attention, "measures of the attention maps of set `train`: vertical_bars, decorrelation, attn_reps",
          one_of({"vertical_bars", "decorrelation", "attn_reps"}));
  }
};

struct OutputConfig {
  double checkpoint_minutes = 5;
  std::int64_t keep = 2;
  bool sequences = true;
  std::optional<std::string> pickle, pickle_rows;
  std::optional<std::int64_t> epoch_steps;

  template <class Self, class Visit>
  static void fields(Self& self, Visit&& visit) {
    visit("checkpoint_minutes", self.checkpoint_minutes, "minutes between checkpoints", positive());
    visit("keep", self.keep, "checkpoints kept", in_range(1, 1000));
    visit("sequences", self.sequences, "write sequences/phase_<k>.npy");
    visit("pickle", self.pickle, "files for notebooks: torch, numpy or none; null = torch where eval.every can be their epoch, else none",
          one_of({"torch", "numpy", "none"}));
    visit("pickle_rows", self.pickle_rows, "rows of test_metrics: current, all_phases, all_validation or all_ranks; null = as published",
          one_of({"current", "all_phases", "all_validation", "all_ranks"}));
    visit("epoch_steps", self.epoch_steps, "steps of an outer iteration in the pickles; null = eval.every", at_least(1));
  }
};

/// What names a run's folder: a file name that may hold overrides as well, "model.heads=2,train.lr=0.001".
Rule run_name();

/// One run, every number of it. The names are a promise to users; DESIGN 3 describes them.
struct RunConfig {
  std::string name = "run";
  std::optional<std::string> group, run;
  std::uint32_t seed = 0;
  std::int64_t threads = 0;
  std::string device = "auto", precision = "fp32";
  DataConfig data;
  ModelConfig model;
  TrainConfig train;
  EvalConfig eval;
  std::vector<EventConfig> events;
  OutputConfig output;

  template <class Self, class Visit>
  static void fields(Self& self, Visit&& visit) {
    visit("name", self.name, "names the results: <cache>/<name>/<run>", file_name());
    visit("group", self.group, "folder of the results; null = name", file_name());
    visit("run", self.run, "folder in the group; null = name, or the overrides", run_name());
    visit("seed", self.seed, "seed of everything random");
    visit("threads", self.threads, "CPU threads; 0 = one for each millisecond of a step, at most the cores and quota of the process",
          in_range(0, 4096));
    visit("device", self.device, "auto | cpu | cuda | cuda:N; auto takes a GPU where a step is estimated to take the CPU more than 2 ms");
    visit("precision", self.precision, "floating-point type; tf32: fp32 whose products a GPU takes of factors with 10 bits of mantissa",
          one_of({"fp32", "tf32", "fp64"}));
    visit("data", self.data, "the sequences");
    visit("model", self.model, "the network");
    visit("train", self.train, "the optimizer and the schedule");
    visit("eval", self.eval, "what is scored, and when");
    visit("events", self.events, "what happens on the way, in this order at equal steps");
    visit("output", self.output, "what is written");
  }
};

inline ModelFacts facts_of(const RunConfig& config) { return facts_of(config.model, config.data.length); }

/// Answers that a model has to choose from at each prediction: the two bits, or the K sequences. One that knows nothing has an accuracy of 1 /
/// choices and a loss of log(choices).
double num_choices(const RunConfig& config);

/// A configuration as a user gave it: a file and overrides, read, checked and resolved.
struct LoadedConfig {
  RunConfig config;  ///< resolved: threads, K and L of own data, absolute paths of data files, group, run. Seeds that follow `seed` stay null
  bool threads_given = false;  ///< `threads` was a positive number in the file or an override
};

/// Reads `path`, applies overrides `a.b=value`, and checks everything that can be known before a run.
/// Throws ConfigError with all violations at once. `with_weights`: also reads the files of weights that events name (a run that has used
/// them no longer needs them).
LoadedConfig load_config(const std::filesystem::path& path, const std::vector<std::string>& overrides, bool with_weights = true);

/// How one run is read of a file that may describe many.
struct Reading {
  bool with_weights = true;
  std::int64_t cores = 0;                               ///< that `threads: 0` may take; 0 = all that this process has
  std::optional<std::vector<std::string>> named_after;  ///< settings that the run's name holds; null = what the overrides set
};
/// The same of a file that has been read, in `folder`.
LoadedConfig load_config(ConfigSource source, const std::filesystem::path& folder, const std::vector<std::string>& overrides, const Reading& reading);

/// A digest of what a run computes: every setting, seeds spelled out, but name, group, run, device, threads and output.*.
std::string identity(const RunConfig& config);
/// The value of a key path as YAML in one line; "" where there is no such key.
std::string setting_of(const RunConfig& config, std::string_view path);

/// The seed of sequences and draws: data.seed, or the run's where it is null.
std::uint32_t data_seed(const RunConfig& config);
/// The seed of the initial weights, in the same way.
std::uint32_t model_seed(const RunConfig& config);
/// The same run with both spelled out.
RunConfig with_seeds(RunConfig config);

/// What a training step takes one core, about.
double milliseconds_of_step(const RunConfig& config);
/// What `threads: 0` means: a thread for each millisecond that a training step would take one, at least one and at most `cores`.
std::int64_t threads_for(const RunConfig& config, std::int64_t cores);

/// Where two resolved configurations differ in what a run computes: "train.lr: 0.001 -> 0.01". Settings that may change between a
/// stop and a resume are left out: name, group, run, device, threads, output.*, and train.steps when it grows. Times of events are the same
/// where they mean the same step, each in its own run: 50% of 20000 and 10000. With train.schedule: cosine no train.steps may grow.
std::vector<std::string> differences(const RunConfig& old_config, const RunConfig& new_config);

}  // namespace mnemo
