#include "experiments/summary.h"

#include "core/error.h"
#include "core/npy.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <algorithm>

namespace mnemo {

namespace {

constexpr std::int64_t kTop = 10;
constexpr double kShareOfCeiling = 0.9;

/// Mean of a row of a (T, S) float32 array over the first `columns`.
double row_mean(const NpyArray& array, std::int64_t row, std::int64_t columns) {
  const auto values = array.view().as<float>();
  double sum = 0;
  for (std::int64_t i = 0; i < columns; ++i) sum += values[static_cast<std::size_t>(row * array.shape[1] + i)];
  return sum / static_cast<double>(columns);
}

/// Steps at which phases 1, 2, ... began.
std::vector<std::int64_t> switch_steps(const fs::path& run_directory) {
  std::vector<std::int64_t> steps;
  for (const auto& entry : nlohmann::json::parse(read_file(run_directory / "switches.json", 1 << 24))) {
    steps.push_back(entry.at("step").get<std::int64_t>());
  }
  return steps;
}

/// Accuracy of a model that knows nothing.
double chance_of(const RunConfig& config) {
  return facts_of(config).task == Task::sequences ? 1 / static_cast<double>(config.data.num_sequences) : 0.5;
}

}  // namespace

std::vector<PhaseSummary> summarize(const fs::path& run_directory, const RunConfig& config, std::int64_t top) {
  const auto switches = switch_steps(run_directory);
  std::vector<PhaseSummary> phases;
  for (std::size_t phase = 0; phase <= switches.size(); ++phase) {
    const auto folder = run_directory / "eval" / fmt::format("phase_{}", phase);
    const auto steps_array = read_npy(folder / "step.npy", true);
    const auto steps = steps_array.view().as<std::int64_t>();
    const auto rank_array = read_npy(folder / "rank.npy");
    const auto ranks = rank_array.view().as<std::int64_t>();
    const auto accuracy = read_npy(folder / "accuracy.npy", true);
    const auto theory = read_npy(run_directory / "theory" / fmt::format("phase_{}.npy", phase));
    const auto columns = std::count_if(ranks.begin(), ranks.end(), [&](auto rank) { return rank < top; });
    if (steps.empty() || columns == 0) continue;

    const auto begin = phase == 0 ? 0 : switches[phase - 1];
    const auto end = phase < switches.size() ? switches[phase] : config.train.steps;
    PhaseSummary summary{};
    for (std::int64_t i = 0; i < columns; ++i) {
      summary.ceiling += theory.view().as<double>()[static_cast<std::size_t>(2 * ranks[static_cast<std::size_t>(i)] + 1)];
    }
    summary.ceiling /= static_cast<double>(columns);
    const double chance = chance_of(config);
    const double threshold = chance + kShareOfCeiling * (summary.ceiling - chance);
    const auto rows = std::min(static_cast<std::int64_t>(steps.size()), accuracy.shape[0]);
    summary.at_begin = row_mean(accuracy, 0, columns);
    summary.at_end = row_mean(accuracy, rows - 1, columns);
    summary.at_switch = summary.at_end;
    bool before_switch = true;
    for (std::int64_t row = 0; row < rows; ++row) {
      const auto step = steps[static_cast<std::size_t>(row)];
      const double now = row_mean(accuracy, row, columns);
      if (step > end) break;
      if (!summary.learned_after && now >= threshold) summary.learned_after = step - begin;
      // of two rows at the switch the first is before it
      if (before_switch) summary.at_switch = now;
      before_switch = step < end;
    }
    phases.push_back(summary);
  }
  return phases;
}

void print_summary(const fs::path& run_directory, const RunConfig& config) {
  const auto phases = summarize(run_directory, config, kTop);
  const auto shown = std::min(kTop, config.data.num_sequences);
  fmt::print("\naccuracy of the {} most frequent sequences (chance {:.3g})\n", shown, chance_of(config));
  fmt::print("{:<10}{:>10}{:>14}{:>12}{:>10}   learned\n", "", "at start", phases.size() > 1 ? "before switch" : "", "at the end", "ceiling");
  for (std::size_t phase = 0; phase < phases.size(); ++phase) {
    const auto& p = phases[phase];
    const bool switched = phase + 1 < phases.size();
    auto learned = p.learned_after ? fmt::format("after {} steps", *p.learned_after) : std::string("not yet");
    if (const auto& first = phases[0].learned_after; phase > 0 && first && *first > 0 && p.learned_after && *p.learned_after > 0) {
      const double ratio = static_cast<double>(*first) / static_cast<double>(*p.learned_after);
      learned += fmt::format(", {:.1f}x {} than phase 0", ratio >= 1 ? ratio : 1 / ratio, ratio >= 1 ? "faster" : "slower");
    }
    fmt::print("{:<10}{:>10.3f}{:>14}{:>12.3f}{:>10.3f}   {}\n", fmt::format("phase {}", phase), p.at_begin,
               switched ? fmt::format("{:.3f}", p.at_switch) : "", p.at_end, p.ceiling, learned);
  }
  fmt::print("learned = {:.0f} % of the way from chance to the Bayes ceiling\n", 100 * kShareOfCeiling);
}

}  // namespace mnemo
