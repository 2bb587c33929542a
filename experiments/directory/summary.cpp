#include "experiments/directory/summary.h"

#include "core/error.h"
#include "core/npy.h"
#include "experiments/run/run.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <cmath>
#include <utility>

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

/// Ranks with a positive probability. (A Zipf law gives one to every rank that a summary speaks of.)
std::int64_t drawn_ranks(const RunConfig& config) {
  if (!config.data.weights) return config.data.num_sequences;
  const auto probabilities = sampler_of(config).probabilities();
  return std::count_if(probabilities.begin(), probabilities.end(), [](double p) { return p > 0; });
}

/// Accuracy of a model that knows nothing.
double chance_of(const RunConfig& config) {
  return facts_of(config).task == Task::sequences ? 1 / static_cast<double>(config.data.num_sequences) : 0.5;
}

}  // namespace

std::vector<PhaseSummary> summarize(const fs::path& run_directory, const RunConfig& config, std::int64_t top) {
  const auto switches = switch_steps(run_directory);
  const auto drawn = std::min(top, drawn_ranks(config));
  std::vector<PhaseSummary> phases;
  for (std::size_t phase = 0; phase <= switches.size(); ++phase) {
    const auto folder = run_directory / "eval" / fmt::format("phase_{}", phase);
    const auto steps_array = read_npy(folder / "step.npy", true);
    const auto rank_array = read_npy(folder / "rank.npy");
    const auto ranks = rank_array.view().as<std::int64_t>();
    const auto accuracy = read_npy(folder / "accuracy.npy", true);
    const auto theory_array = read_npy(run_directory / "theory" / fmt::format("phase_{}.npy", phase));
    const auto theory = theory_array.view().as<double>();  // (K, 2)
    const auto steps = steps_array.view().as<std::int64_t>().first(static_cast<std::size_t>(std::min(steps_array.shape[0], accuracy.shape[0])));
    PhaseSummary summary{};
    summary.ranks = drawn;
    const auto columns = std::count_if(ranks.begin(), ranks.end(), [&](auto rank) { return rank < summary.ranks; });
    if (steps.empty() || columns == 0) continue;

    summary.scored = columns;
    for (std::int64_t i = 0; i < columns; ++i) summary.ceiling += theory[static_cast<std::size_t>(2 * ranks[static_cast<std::size_t>(i)] + 1)];
    summary.ceiling /= static_cast<double>(columns);
    summary.chance = chance_of(config);
    const double threshold = summary.chance + kShareOfCeiling * (summary.ceiling - summary.chance);

    // of two rows at a step the first is before its events, the second after them
    const auto begin = phase == 0 ? 0 : switches[phase - 1];
    const auto last = std::ssize(steps) - 1;
    const auto first_row = std::upper_bound(steps.begin(), steps.end(), begin) - steps.begin() - 1;
    const auto switch_row = phase < switches.size() ? std::lower_bound(steps.begin(), steps.end(), switches[phase]) - steps.begin() : last;
    const auto last_row = std::min(last, std::max(first_row, switch_row));
    const auto accuracy_at = [&](std::int64_t row) { return row_mean(accuracy, row, columns); };
    summary.at_begin = accuracy_at(first_row);
    summary.at_switch = accuracy_at(last_row);
    summary.at_end = accuracy_at(last);
    for (auto row = first_row; row <= last_row && summary.can_learn() && !summary.learned; ++row) {
      if (accuracy_at(row) < threshold - 1e-9) continue;  // a mean of equal numbers may round below them
      const auto since_begin = [&](std::int64_t at) { return at < first_row ? 0 : steps[static_cast<std::size_t>(at)] - begin; };
      summary.learned = {since_begin(row - 1), since_begin(row)};
    }
    phases.push_back(summary);
  }
  return phases;
}

std::string speed_text(const StepInterval& first, const StepInterval& later) {
  if (first.by == 0 || later.by == 0) return {};
  const auto ratio = [](std::int64_t a, std::int64_t b) { return b == 0 ? INFINITY : static_cast<double>(a) / static_cast<double>(b); };
  const bool faster = first.after >= later.by, slower = later.after >= first.by;
  if (!faster && !slower) return "too near to phase 0 to say which was faster";
  const auto& [longer, shorter] = faster ? std::pair(first, later) : std::pair(later, first);
  const auto low = fmt::format("{:.1f}x", ratio(longer.after, shorter.by)), high = fmt::format("{:.1f}x", ratio(longer.by, shorter.after));
  const auto by = shorter.after > 0 ? (low == high ? low : low + " to " + high) + " " : low == "1.0x" ? "" : "at least " + low + " ";
  return fmt::format("{}{} than phase 0", by, faster ? "faster" : "slower");
}

namespace {

std::string learned_text(const PhaseSummary& phase) {
  if (!phase.can_learn()) return "-";
  if (!phase.learned) return "not yet";
  const auto [after, by] = *phase.learned;
  if (by == 0) return "from the start";
  return after == by ? fmt::format("after {} steps", by) : fmt::format("after {} to {} steps", after, by);
}

}  // namespace

void print_summary(const fs::path& run_directory, const RunConfig& config) {
  const auto phases = summarize(run_directory, config, kTop);
  if (phases.empty()) return;
  const auto& [ranks, scored] = std::pair(phases[0].ranks, phases[0].scored);
  fmt::print("\naccuracy of {} (chance {:.3g})\n",
             scored == ranks ? fmt::format("the {} most frequent sequences", ranks)
                             : fmt::format("{} of the {} most frequent sequences, by eval.validation_stride", scored, ranks),
             phases[0].chance);
  fmt::print("{:<10}{:>10}{:>14}{:>12}{:>10}   learned\n", "", "at start", phases.size() > 1 ? "before switch" : "", "at the end", "ceiling");
  for (std::size_t phase = 0; phase < phases.size(); ++phase) {
    const auto& p = phases[phase];
    const bool switched = phase + 1 < phases.size();
    auto learned = learned_text(p);
    if (phase > 0 && phases[0].learned && p.learned) {
      if (const auto speed = speed_text(*phases[0].learned, *p.learned); !speed.empty()) learned += ", " + speed;
    }
    fmt::print("{:<10}{:>10.3f}{:>14}{:>12.3f}{:>10.3f}   {}\n", fmt::format("phase {}", phase), p.at_begin,
               switched ? fmt::format("{:.3f}", p.at_switch) : "", p.at_end, p.ceiling, learned);
  }
  const bool nothing = std::any_of(phases.begin(), phases.end(), [](const auto& p) { return !p.can_learn(); });
  fmt::print("learned = {:.0f} % of the way from chance to the Bayes ceiling{}\n", 100 * kShareOfCeiling,
             nothing ? "; - = the ceiling is not above chance, there is nothing to learn" : "");
}

}  // namespace mnemo
