#include "experiments/directory/summary.h"

#include "experiments/run/data.h"
#include "experiments/run/evaluate.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <span>
#include <utility>

namespace mnemo {

namespace {

constexpr std::int64_t kTop = 10;
constexpr double kShareOfCeiling = 0.9;

/// Mean of the first `columns` of a row of a (T, S) float32 array.
double row_mean(const NpyRows& array, std::int64_t row, std::int64_t columns) {
  const auto values = array[row];
  return mean_of(values.view().as<float>().first(static_cast<std::size_t>(columns)));
}

/// Ranks with a positive probability. (A Zipf law gives one to every rank that a summary speaks of.)
std::int64_t drawn_ranks(const RunConfig& config) {
  if (!config.data.weights) return config.data.num_sequences;
  const auto probabilities = rank_law(config).sampler.probabilities();
  return std::count_if(probabilities.begin(), probabilities.end(), [](double p) { return p > 0; });
}

}  // namespace

std::vector<PhaseSummary> summarize(const RunReader& run, std::int64_t top) {
  const auto starts = run.phase_starts();
  const auto drawn = std::min(top, drawn_ranks(run.config()));
  std::vector<PhaseSummary> phases;
  for (std::size_t phase = 0; phase < starts.size(); ++phase) {
    const auto set = run.set(fmt::format("phase_{}", phase));
    const auto& ranks = set.ranks;
    const std::span steps(set.steps.data(), static_cast<std::size_t>(std::min(std::ssize(set.steps), set.accuracy.size())));
    const auto theory_array = run.theory(static_cast<std::int64_t>(phase));
    const auto theory = theory_array.view().as<double>();  // (K, 2)
    PhaseSummary summary{};
    summary.ranks = drawn;
    const auto columns = std::count_if(ranks.begin(), ranks.end(), [&](auto rank) { return rank < summary.ranks; });
    if (steps.empty() || columns == 0) continue;

    summary.scored = columns;
    for (std::int64_t i = 0; i < columns; ++i) summary.ceiling += theory[static_cast<std::size_t>(2 * ranks[static_cast<std::size_t>(i)] + 1)];
    summary.ceiling /= static_cast<double>(columns);
    summary.chance = 1 / num_choices(run.config());
    const double threshold = summary.chance + kShareOfCeiling * (summary.ceiling - summary.chance);

    // of two rows at a step the first is before its events, the second after them
    const auto begin = starts[phase];
    const auto last = std::ssize(steps) - 1;
    const auto first_row = std::upper_bound(steps.begin(), steps.end(), begin) - steps.begin() - 1;
    const auto switch_row = phase + 1 < starts.size() ? std::lower_bound(steps.begin(), steps.end(), starts[phase + 1]) - steps.begin() : last;
    const auto last_row = std::min(last, std::max(first_row, switch_row));
    const auto accuracy_at = [&](std::int64_t row) { return row_mean(set.accuracy, row, columns); };
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

std::string summary_text(const RunReader& run) {
  const auto phases = summarize(run, kTop);
  if (phases.empty()) return {};
  std::string text;
  const auto out = std::back_inserter(text);
  const auto& [ranks, scored] = std::pair(phases[0].ranks, phases[0].scored);
  fmt::format_to(out, "\naccuracy of {} (chance {:.3g})\n",
                 scored == ranks ? fmt::format("the {} most frequent sequences", ranks)
                                 : fmt::format("{} of the {} most frequent sequences, by eval.validation_stride", scored, ranks),
                 phases[0].chance);
  fmt::format_to(out, "{:<10}{:>10}{:>14}{:>12}{:>10}   learned\n", "", "at start", phases.size() > 1 ? "before switch" : "", "at the end",
                 "ceiling");
  for (std::size_t phase = 0; phase < phases.size(); ++phase) {
    const auto& p = phases[phase];
    const bool switched = phase + 1 < phases.size();
    auto learned = learned_text(p);
    if (phase > 0 && phases[0].learned && p.learned) {
      if (const auto speed = speed_text(*phases[0].learned, *p.learned); !speed.empty()) learned += ", " + speed;
    }
    fmt::format_to(out, "{:<10}{:>10.3f}{:>14}{:>12.3f}{:>10.3f}   {}\n", fmt::format("phase {}", phase), p.at_begin,
                   switched ? fmt::format("{:.3f}", p.at_switch) : "", p.at_end, p.ceiling, learned);
  }
  const bool nothing = std::any_of(phases.begin(), phases.end(), [](const auto& p) { return !p.can_learn(); });
  fmt::format_to(out, "learned = {:.0f} % of the way from chance to the Bayes ceiling{}\n", 100 * kShareOfCeiling,
                 nothing ? "; - = the ceiling is not above chance, there is nothing to learn" : "");
  return text;
}

}  // namespace mnemo
