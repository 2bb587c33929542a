// What is due after a step (experiments/run/schedule.h).

#include "experiments/run/schedule.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <set>

namespace mnemo {
namespace {

using ::testing::ElementsAre;
using ::testing::IsSubsetOf;

using Steps = std::vector<std::int64_t>;

SwitchEvent switch_at(const std::string& when) {
  SwitchEvent event;
  std::string problem;
  EXPECT_TRUE(event.schedule.at.emplace().from_text(when, problem)) << problem;
  return event;
}

SwitchEvent switch_every(std::int64_t every) {
  SwitchEvent event;
  event.schedule.every = every;
  return event;
}

RunConfig of_steps(std::int64_t steps, std::int64_t every, std::int64_t per_decade, std::vector<EventConfig> events = {}) {
  RunConfig config;
  config.train.steps = steps;
  config.eval.every = every, config.eval.per_decade = per_decade;
  config.events = std::move(events);
  return config;
}

std::int64_t count(const std::vector<Action>& actions, Action::Kind kind) {
  return std::count_if(actions.begin(), actions.end(), [&](const auto& action) { return action.kind == kind; });
}

/// Steps that are evaluated, those before and after an event once.
Steps evaluated(const RunConfig& config) {
  Steps steps;
  for (std::int64_t step = 0; step <= config.train.steps; ++step) {
    if (count(actions_after(step, config), Action::Kind::evaluate) > 0) steps.push_back(step);
  }
  return steps;
}

TEST(PerDecade, AddsLogarithmicDistancesFromTheStartAndFromEachSwitch) {
  EXPECT_THAT(evaluated(of_steps(250, 1000, 0)), ElementsAre(0, 250));
  EXPECT_THAT(evaluated(of_steps(250, 1000, 1)), ElementsAre(0, 1, 10, 100, 250));
  EXPECT_THAT(evaluated(of_steps(250, 1000, 4)), ElementsAre(0, 1, 2, 3, 6, 10, 18, 32, 56, 100, 178, 250));
  EXPECT_THAT(evaluated(of_steps(40, 30, 3, {switch_at("50%")})), ElementsAre(0, 1, 2, 5, 10, 20, 21, 22, 25, 30, 40));
  EXPECT_THAT(evaluated(of_steps(35, 1000, 1, {switch_every(12), switch_at("3")})), ElementsAre(0, 1, 3, 4, 12, 13, 22, 24, 25, 34, 35));
}

TEST(PerDecade, NeverEvaluatesTwiceInOneState) {
  std::mt19937 random(1);
  for (int trial = 0; trial < 50; ++trial) {
    const auto below = [&](std::int64_t n) { return static_cast<std::int64_t>(random() % static_cast<std::uint64_t>(n)); };
    const auto steps = 1 + below(400);
    std::vector<EventConfig> events;
    for (auto n = below(4); n > 0; --n) events.push_back(below(2) ? switch_at(std::to_string(below(steps))) : switch_every(1 + below(200)));
    const auto with = of_steps(steps, 1 + below(100), below(30), events);
    auto without = with;
    without.eval.per_decade = 0;
    double evaluations = 0;
    for (std::int64_t step = 0; step <= steps; ++step) {
      const auto actions = actions_after(step, with), fewer = actions_after(step, without);
      const bool switches = count(actions, Action::Kind::event) > 0;
      EXPECT_LE(count(actions, Action::Kind::evaluate), switches ? 2 : 1);
      EXPECT_EQ(count(actions, Action::Kind::log), count(fewer, Action::Kind::log));
      EXPECT_THAT(fewer, IsSubsetOf(actions));
      evaluations += static_cast<double>(count(actions, Action::Kind::evaluate));
    }
    EXPECT_LE(evaluations, num_evaluations(with)) << steps << " steps, " << with.eval.per_decade << " a decade";
  }
}

TEST(PerDecade, DistancesAreRoundedPowers) {
  for (std::int64_t n = 1; n <= 40; ++n) {
    std::set<std::int64_t> powers;
    for (std::int64_t k = 0; k <= 4 * n; ++k) powers.insert(std::llround(std::pow(10.0L, static_cast<long double>(k) / static_cast<long double>(n))));
    std::set<std::int64_t> found;
    for (std::int64_t distance = 1; distance <= 10000; ++distance) {
      if (is_log_spaced(distance, n)) found.insert(distance);
    }
    EXPECT_EQ(found, powers) << n << " a decade";
  }
  for (std::int64_t power = 1; power <= 1'000'000'000'000; power *= 10) {
    EXPECT_TRUE(is_log_spaced(power, 1));
    EXPECT_FALSE(is_log_spaced(power + 1, 1));
  }
}

TEST(Schedule, AdamGetsTheSettingsOfTheRun) {
  TrainConfig train;
  auto scalars = scalars_of(train);
  EXPECT_FALSE(scalars.decoupled);
  EXPECT_EQ(learning_rate(scalars, train.steps), train.lr);
  train.schedule = "cosine", train.warmup = 10, train.decay = "decoupled", train.clip_norm = 0.5, train.weight_decay = 0.25;
  scalars = scalars_of(train);
  EXPECT_TRUE(scalars.decoupled);
  EXPECT_EQ(scalars.clip_norm, 0.5);
  EXPECT_EQ(scalars.weight_decay, 0.25);
  EXPECT_EQ(learning_rate(scalars, 1), train.lr / 10);
  EXPECT_EQ(learning_rate(scalars, 11), train.lr);
  EXPECT_LT(learning_rate(scalars, train.steps), 1e-6 * train.lr);
}

}  // namespace
}  // namespace mnemo
