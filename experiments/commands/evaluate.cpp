#include "experiments/run/evaluate.h"

#include "core/device.h"
#include "core/threads.h"
#include "experiments/commands/commands.h"
#include "experiments/directory/run_reader.h"
#include "experiments/run/data.h"
#include "experiments/run/schedule.h"
#include "experiments/run/weights.h"
#include "models/make_model.h"

#include <fmt/format.h>
#include <torch/torch.h>

namespace mnemo {

namespace {

struct EvaluateRequest {
  fs::path run;
  std::string weights = "final", sequences, out, device = "cpu";
  std::int64_t stride = 1;
};

/// A set to score: its sequences, their ranks, and the Bayes ceiling of each if there is one.
struct NamedSet {
  std::string name;
  SequenceTable table;
  std::vector<std::int32_t> ranks;
  std::optional<Theory> theory;
};

/// A line for each bin of ranks.
void print_scores(const NamedSet& set, const Scores& scores) {
  for (const auto& [begin, end] : rank_bins(set.table.num_sequences())) {
    const auto position = [&](std::int64_t rank) {
      return static_cast<std::size_t>(std::lower_bound(set.ranks.begin(), set.ranks.end(), rank) - set.ranks.begin());
    };
    const auto first = position(begin), beyond = position(end);
    if (first == beyond) continue;
    const auto mean = [&](std::span<const float> values) { return mean_of(values.subspan(first, beyond - first)); };
    double ceiling = 0;
    for (auto i = first; set.theory && i < beyond; ++i) ceiling += set.theory->accuracy[static_cast<std::size_t>(set.ranks[i])];
    fmt::print("{:<12} {:<14} {:>8} {:>10.4f} {:>10.4f} {:>10}\n", set.name, fmt::format("{}-{}", begin, end - 1), beyond - first, mean(scores.loss),
               mean(scores.accuracy), set.theory ? fmt::format("{:.4f}", ceiling / static_cast<double>(beyond - first)) : "");
  }
}

void write_scores(const fs::path& folder, const NamedSet& set, const Scores& scores) {
  make_directories(folder);
  const std::vector<std::int64_t> ranks(set.ranks.begin(), set.ranks.end());
  const Shape shape{static_cast<std::int64_t>(ranks.size())};
  write_npy(folder / "rank.npy", view_of(ranks.data(), shape));
  write_npy(folder / "loss.npy", view_of(scores.loss.data(), shape));
  write_npy(folder / "accuracy.npy", view_of(scores.accuracy.data(), shape));
}

std::vector<NamedSet> sets_of(const EvaluateRequest& request, const RunReader& run) {
  const auto& config = run.config();
  std::vector<NamedSet> sets;
  if (!request.sequences.empty()) {
    const auto array = read_npy(request.sequences);
    if (array.shape.size() != 2 || array.shape[1] != config.data.length) {
      refuse(request.sequences, fmt::format("expected shape (K, {}), the length this model was trained on", config.data.length));
    }
    try {
      sets.push_back({fs::path(request.sequences).stem().string(), SequenceTable::from_array(array.view()), {}, {}});
    } catch (const std::invalid_argument& error) {
      refuse(request.sequences, error.what());
    }
    sets.back().ranks = strided_ranks(array.shape[0], request.stride);
    return sets;
  }
  const auto& law = run.law();
  for (std::int64_t phase = 0; phase < num_phases(config); ++phase) {
    auto table = table_of_phase(config, law, phase);
    auto theory = theory_of(config, table, law.sampler);
    auto ranks = strided_ranks(table.num_sequences(), request.stride);
    sets.push_back({fmt::format("phase_{}", phase), std::move(table), std::move(ranks), std::move(theory)});
  }
  if (config.eval.novel > 0) {
    auto novel = SequenceTable::novel(data_seed(config), config.eval.novel, config.data.length);
    auto ranks = strided_ranks(config.eval.novel, 1);
    sets.push_back({"novel", std::move(novel), std::move(ranks), {}});
  }
  return sets;
}

ExitCode evaluate(const EvaluateRequest& request) {
  const RunReader run(request.run);
  const auto& config = run.config();
  wait_without_spinning(config.threads);
  at::set_num_threads(static_cast<int>(config.threads));
  const auto model = make_model({&config.model, 1}, config.data.length, config.precision == "fp64" ? torch::kFloat64 : torch::kFloat32,
                                choose_device(request.device, milliseconds_of_step(config) / static_cast<double>(config.threads)).device);
  const auto weights = run.weights(request.weights);
  load_weights(*model, weights);
  load_memory(*model, weights);
  fmt::print("{:<12} {:<14} {:>8} {:>10} {:>10} {:>10}\n", "set", "ranks", "scored", "loss", "accuracy", "ceiling");
  for (const auto& set : sets_of(request, run)) {
    const auto scores = score(*model, set.table, set.ranks);
    print_scores(set, scores);
    if (!request.out.empty()) write_scores(fs::path(request.out) / set.name, set, scores);
  }
  return ExitCode::done;
}

}  // namespace

void add_evaluate(CLI::App& app, Command& chosen) {
  auto* command = app.add_subcommand("evaluate", "Score a run's weights on its own sequences, or on yours");
  command->footer(
      "Examples:\n"
      "  mnemo evaluate cache/quickstart/quickstart\n"
      "  mnemo evaluate cache/quickstart/quickstart --weights before_switch\n"
      "  mnemo evaluate cache/quickstart/quickstart --sequences mine.npy --out scores     (K, L) of 0 and 1");
  auto request = std::make_shared<EvaluateRequest>();
  command->add_option("run", request->run, "run directory")->required()->transform(home_expanded());
  command->add_option("--weights", request->weights, "final, the name of a snapshot, or a safetensors file")
      ->transform(home_expanded())
      ->capture_default_str();
  command->add_option("--sequences", request->sequences, ".npy of 0/1 integers (K, L), scored instead of the run's sets")->transform(home_expanded());
  add_number(command, "--stride", request->stride, in_range(1, 2147483647), "every n-th sequence");
  command->add_option("--out", request->out, "folder for <set>/{rank,loss,accuracy}.npy")->transform(home_expanded());
  command->add_option("--device", request->device, "auto, cpu, cuda or cuda:N")->capture_default_str();
  command->callback([=, &chosen] { chosen = [=] { return evaluate(*request); }; });
}

}  // namespace mnemo
