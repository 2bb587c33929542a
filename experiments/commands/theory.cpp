#include "experiments/run/theory.h"

#include "experiments/commands/commands.h"
#include "experiments/run/evaluate.h"
#include "experiments/run/data.h"

#include <fmt/format.h>

namespace mnemo {

namespace {

ExitCode print_theory(const std::string& path, const std::vector<std::string>& overrides, std::int64_t phase, bool json) {
  const auto config = load_config(path, overrides).config;
  const auto law = rank_law(config);
  const auto table = table_of_phase(config, law, phase);
  const auto theory = theory_of(config, table, law.sampler);
  const auto K = table.num_sequences();
  if (json) {
    fmt::print(
        "{{\"num_sequences\": {}, \"length\": {}, \"phase\": {}, \"entropy\": {}, \"loss_floor\": {}, \"accuracy_ceiling\": {}, "
        "\"accuracy_ceiling_unweighted\": {}, \"retrieval_ceiling\": {}}}\n",
        K, table.length(), phase, theory.entropy, theory.mean_loss, theory.mean_accuracy, theory.unweighted_accuracy(), theory.retrieval);
    return ExitCode::done;
  }
  fmt::print("the Bayes predictor that knows all {} sequences of {} bits and their probabilities (phase {})\n\n", K, table.length(), phase);
  fmt::print("entropy of the sequences      {:.4f} nats\n", theory.entropy);
  const bool names_sequences = facts_of(config).task == Task::sequences;
  const double choices = num_choices(config);
  fmt::print("loss floor, p-weighted        {:.4f} nats a {} (no model is below; chance {:.4f})\n", theory.mean_loss,
             names_sequences ? "prediction" : "bit", std::log(choices));
  fmt::print("accuracy ceiling, p-weighted  {:.4f} (no model is above; chance {:.4g})\n", theory.mean_accuracy, 1 / choices);
  fmt::print("accuracy, all ranks equal     {:.4f} (where a p-optimal model sits)\n", theory.unweighted_accuracy());
  fmt::print("retrieval ceiling             {:.4f} (naming the sequence from its prefix, all equally likely)\n\n", theory.retrieval);
  fmt::print("{:<16} {:>10} {:>12} {:>10}\n", "ranks", "mass", "loss floor", "ceiling");
  std::int64_t never_drawn = 0;
  for (const auto& [begin, end] : rank_bins(K)) {
    double mass = 0, loss = 0;
    std::int64_t drawn = 0;
    for (auto rank = begin; rank < end; ++rank) {
      const double p = law.sampler.probabilities()[static_cast<std::size_t>(rank)];
      if (p == 0) continue;
      mass += p;
      loss += theory.loss[static_cast<std::size_t>(rank)];
      ++drawn;
    }
    never_drawn += end - begin - drawn;
    fmt::print("{:<16} {:>10.4f} {:>12} {:>10.4f}\n", fmt::format("{}-{}", begin, end - 1), mass,
               drawn > 0 ? fmt::format("{:.4f}", loss / static_cast<double>(drawn)) : "-", Theory::mean(theory.accuracy, begin, end));
  }
  if (never_drawn > 0) fmt::print("\n{} sequences have probability 0 and are never drawn: loss floors are of the others\n", never_drawn);
  return ExitCode::done;
}

}  // namespace

void add_theory(CLI::App& app, Command& chosen) {
  auto* command = app.add_subcommand("theory", "The loss floor and accuracy ceiling of a configuration's data");
  command->footer(
      "Examples:\n"
      "  mnemo theory configs/quickstart.yaml\n"
      "  mnemo theory configs/quickstart.yaml data.length=100 data.num_sequences=1e5 --json");
  auto path = std::make_shared<std::string>();
  auto overrides = std::make_shared<std::vector<std::string>>();
  auto phase = std::make_shared<std::int64_t>(0);
  auto json = std::make_shared<bool>(false);
  command->add_option("config", *path, "YAML file")->required()->transform(home_expanded());
  command->add_option("overrides", *overrides, "a.b=value");
  add_number(command, "--phase", *phase, in_range(0, 4294967295), "0 = before the first switch");
  command->add_flag("--json", *json, "one JSON object");
  command->callback([=, &chosen] { chosen = [=] { return print_theory(*path, *overrides, *phase, *json); }; });
}

}  // namespace mnemo
