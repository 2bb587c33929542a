#include "experiments/sweep/plan.h"

#include "experiments/sweep/results.h"
#include "support.h"

#include <fmt/format.h>

#include <algorithm>
#include <random>
#include <set>

namespace mnemo {
namespace {

using test::expect_error;
using test::spill;
using test::TemporaryDirectory;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using Lines = std::vector<std::string>;

SweepPlan plan_of(std::string_view text, const Lines& overrides = {}, const Lines& zips = {}, const EarlierSweep& earlier = {}) {
  const TemporaryDirectory folder;
  spill(folder / "f.yaml", text);
  return plan_sweep({folder / "f.yaml", overrides, zips}, [&](const std::string&) { return earlier; });
}

Lines runs_of(const SweepPlan& plan) {
  Lines runs;
  for (const auto& point : plan.points) runs.push_back(point.run());
  return runs;
}

/// A sweep of these points, as the manifest has it.
EarlierSweep earlier_of(const SweepPlan& plan) {
  EarlierSweep earlier{plan.keys, {}};
  for (const auto& point : plan.points) earlier.runs[identity(point.loaded.config)] = point.run();
  return earlier;
}

constexpr const char* kBlock = "name: a\nsweep: {train.lr: [1e-3, 3.0e-3], seed: [0, 1]}\n";

TEST(SweepPlan, PointsAreInTheOrderOfTheFileTheLastAxisFastest) {
  const auto plan = plan_of(kBlock);
  EXPECT_EQ(plan.group, "a");
  EXPECT_THAT(plan.keys, ElementsAre("train.lr", "seed"));
  EXPECT_THAT(runs_of(plan), ElementsAre("seed=0,train.lr=0.001", "seed=1,train.lr=0.001", "seed=0,train.lr=0.003", "seed=1,train.lr=0.003"));
  EXPECT_THAT(plan.points[2].values, ElementsAre("0.003", "0"));
  EXPECT_EQ(plan.points[2].loaded.config.train.lr, 3e-3);
  EXPECT_EQ(plan.points[2].loaded.config.threads, 1);
  EXPECT_EQ(plan.points[2].loaded.config.output.pickle, "none");
  EXPECT_THAT(plan.duplicates, IsEmpty());
}

TEST(SweepPlan, ABadValueIsNamedAtItsPlaceInTheFile) {
  expect_error(ExitCode::config, "f.yaml:3:20: sweep: train.lr: ", [] { plan_of("name: a\nsweep:\n  train.lr: [1e-3, abc]\n"); });
  expect_error(ExitCode::config, "f.yaml:2:38: sweep: train.steps: ", [] { plan_of("name: a\nsweep: {zip: [{seed: 1, train.steps: 0}]}\n"); });
  expect_error(ExitCode::config, "<train.lr=abc>:1:10: train.lr: ", [] { plan_of("name: a\nsweep: {seed: [0, 1]}\n", {"train.lr=1e-3,abc"}); });
}

TEST(SweepPlan, AnAxisOfTheCommandLineTakesThePlaceOfTheFiles) {
  EXPECT_THAT(runs_of(plan_of(kBlock, {"train.lr=1e-2,1e-1"})),
              ElementsAre("seed=0,train.lr=0.01", "seed=1,train.lr=0.01", "seed=0,train.lr=0.1", "seed=1,train.lr=0.1"));
  EXPECT_THAT(runs_of(plan_of(kBlock, {"train.lr=1e-2"})), ElementsAre("seed=0,train.lr=0.01", "seed=1,train.lr=0.01"));
  EXPECT_THAT(runs_of(plan_of(kBlock, {"sweep={}", "seed=range(3,0,-1)"})), ElementsAre("seed=3", "seed=2", "seed=1"));
  EXPECT_THAT(runs_of(plan_of("name: a", {"train.lr=logspace(1e-4,1e-1,4)"})),
              ElementsAre("train.lr=0.0001", "train.lr=0.001", "train.lr=0.01", "train.lr=0.1"));
  EXPECT_THAT(runs_of(plan_of("name: a", {"train.lr=logspace(1e-3,1e-2,3)"})), ElementsAre("train.lr=0.001", "train.lr=0.00316228", "train.lr=0.01"));
  EXPECT_THAT(runs_of(plan_of("name: a", {"train.betas=[0.9, 0.99],[0.8, 0.99]"})).size(), 2u);
  EXPECT_THAT(runs_of(plan_of("name: a", {"train.steps=10,20", "model.heads=2"})), ElementsAre("train.steps=10", "train.steps=20"));
}

TEST(SweepPlan, ZippedSettingsVaryTogether) {
  const Lines expected{"model.heads=1,model.init_std=0.01,seed=0", "model.heads=1,model.init_std=0.01,seed=1",
                       "model.heads=5,model.init_std=0.1,seed=0", "model.heads=5,model.init_std=0.1,seed=1"};
  const auto sorted = [](Lines names) {
    for (auto& name : names) {
      Lines parts;
      for (std::size_t begin = 0; begin <= name.size(); begin = std::min(name.find(',', begin), name.size()) + 1) {
        parts.push_back(name.substr(begin, name.find(',', begin) - begin));
      }
      std::sort(parts.begin(), parts.end());
      name = fmt::format("{}", fmt::join(parts, ","));
    }
    return names;
  };
  const std::string base = "name: a\nmodel: {kind: dam}\n";
  const auto in_file = plan_of(
      base + "sweep:\n  zip: [{model.heads: 1, model.init_std: 1e-2}, {model.heads: 5, model.init_std: 1e-1}]\n  seed: [0, 1]\n", {"model.eta=3"});
  EXPECT_EQ(in_file.points.size(), 4u);
  const auto typed = plan_of(base, {"model.heads=1,5", "seed=0,1", "model.init_std=0.01,0.1"}, {"model.heads,model.init_std"});
  EXPECT_EQ(sorted(runs_of(typed)), expected);
}

TEST(SweepPlan, APointThatIsAnotherOneIsOnePoint) {
  const auto plan = plan_of("name: a", {"train.lr=1e-3,0.001,2e-3"});
  EXPECT_THAT(runs_of(plan), ElementsAre("train.lr=0.001", "train.lr=0.002"));
  EXPECT_THAT(plan.duplicates, ElementsAre("train.lr=0.001 is the same run as train.lr=0.001"));
}

TEST(SweepPlan, KeysStayAxesAndPointsKeepTheirNames) {
  const auto first = plan_of("name: a", {"train.lr=1e-3,2e-3"});
  const auto more_seeds = plan_of("name: a", {"train.lr=1e-3,2e-3", "seed=0,1"}, {}, earlier_of(first));
  EXPECT_THAT(runs_of(more_seeds), ElementsAre("train.lr=0.001", "seed=1,train.lr=0.001", "train.lr=0.002", "seed=1,train.lr=0.002"));
  const auto one_more = plan_of("name: a", {"seed=2"}, {}, earlier_of(more_seeds));
  EXPECT_THAT(one_more.keys, ElementsAre("train.lr", "seed"));  // 1e-3 is the default of train.lr
  EXPECT_THAT(runs_of(one_more), ElementsAre("seed=2,train.lr=0.001"));
}

TEST(SweepPlan, Refused) {
  const auto refused = [](const std::string& part, std::string_view text, const Lines& overrides = {}, const Lines& zips = {}) {
    SCOPED_TRACE(part);
    expect_error(ExitCode::config, part, [&] { plan_of(text, overrides, zips); });
  };
  refused("train.lrr", "sweep: {train.lrr: [1, 2]}");
  refused("did you mean 'lr'", "name: a", {"train.lrr=1,2"});
  refused("f.yaml:1:15: sweep.seed: expected a list of values, at least one", "sweep: {seed: [], train.lr: [1]}");
  refused("sweep: varies seed twice", "sweep:\n  seed: [0]\n  zip: [{seed: 1, train.lr: 1}]");
  refused("sweep.zip.1: has seed; the first point has seed, train.lr", "sweep: {zip: [{seed: 1, train.lr: 1}, {seed: 2}]}");
  refused("seed is given twice", "name: a", {"seed=0,1", "seed=2"});
  refused("seed is zipped with seed, train.lr", "sweep: {zip: [{seed: 1, train.lr: 1}]}", {"seed=0,1"});
  refused("--zip seed,train.lr: seed has 2 values, train.lr has 3", "name: a", {"seed=0,1", "train.lr=1,2,3"}, {"seed,train.lr"});
  refused("model.heads is no axis", "name: a", {"seed=0,1"}, {"seed,model.heads"});
  refused("names one run", "run: b", {"seed=0,1"});
  refused("names one run", "name: a", {"run=b", "seed=0,1"});
  refused("an axis is a list without brackets", "name: a", {"train.lr=[1e-3,2e-3]", "seed=0,1"});
  refused("threads cannot vary", "name: a", {"threads=1,2"});
  refused("nothing varies", "name: a");
  refused("100001 points; the limit is 100000", "name: a", {"seed=range(11)", "data.num_sequences=range(1,9092)"});
  refused("a value is missing beside a comma", "name: a", {"seed=0,,1"});
  refused("the step of a range must not be 0", "name: a", {"seed=range(0,3,0)"});
  refused("logspace takes positive ends", "name: a", {"train.lr=logspace(0,1,3)"});
  refused("must be > 0", "name: a", {"train.lr=-1,1"});
}

TEST(SweepPlan, PacksPartitionThePointsAndHoldWhatMaySharePacks) {
  std::mt19937 random(1);
  for (int trial = 0; trial < 30; ++trial) {
    std::vector<RunConfig> configs(1 + random() % 40);
    std::vector<std::int64_t> starts;
    for (auto& config : configs) {
      config.train.lr = 1e-3 * static_cast<double>(1 + random() % 5);
      config.seed = random() % 3;
      config.train.batch_size = 8 * static_cast<std::int64_t>(1 + random() % 2);
      starts.push_back(static_cast<std::int64_t>(random() % 2));
    }
    const std::size_t max_pack = 1 + random() % 5;
    std::vector<bool> taken(configs.size());
    std::size_t before = 0;
    for (const auto& pack : packs_of(configs, starts, max_pack)) {
      ASSERT_FALSE(pack.empty());
      ASSERT_LE(pack.size(), max_pack);
      EXPECT_LE(before, pack[0]);
      before = pack[0];
      for (const auto i : pack) {
        EXPECT_FALSE(taken[i]);
        taken[i] = true;
        EXPECT_EQ(configs[i].train.batch_size, configs[pack[0]].train.batch_size);
        EXPECT_EQ(starts[i], starts[pack[0]]);
      }
    }
    EXPECT_EQ(std::count(taken.begin(), taken.end(), true), std::ssize(configs));
  }
}

TEST(SweepPlan, NamesAreUniqueAndStableWhenPointsAreAdded) {
  std::mt19937 random(2);
  EarlierSweep earlier;
  std::map<std::string, std::string> names;  // by identity
  const Lines keys{"seed", "train.lr", "model.heads", "data.zipf_exponent", "train.betas"};
  for (int call = 0; call < 20; ++call) {
    Lines overrides;
    for (const auto& key : keys) {
      if (random() % 2 == 0 && call > 0) continue;
      const auto value = [&] {
        const auto n = 1 + random() % 4;
        return key == "train.betas" ? fmt::format("[0.{}, 0.99]", n) : std::to_string(n);
      };
      overrides.push_back(key + "=" + value() + "," + value());
    }
    if (overrides.empty()) continue;
    const auto plan = plan_of("name: a\nmodel: {head_dim: 8}", overrides, {}, earlier);
    earlier.keys = plan.keys;
    for (const auto& point : plan.points) {
      const auto id = identity(point.loaded.config);
      const auto [known, fresh] = names.emplace(id, point.run());
      EXPECT_EQ(known->second, point.run());
      earlier.runs[id] = point.run();
    }
    std::set<std::string> distinct;
    for (const auto& [id, name] : names) EXPECT_TRUE(distinct.insert(name).second) << name;
  }
}

TEST(GridEdges, ANumberAtTheEndOfItsAxisIsNamedWithTwoBeyond) {
  const auto edges_of = [](const Lines& values, std::size_t best) {
    BestRuns runs{{"k"}, {}};
    runs.points.push_back({{values[best]}, 1, {0.0}, 0});
    for (std::size_t i = 0; i < values.size(); ++i) {
      if (i != best) runs.points.push_back({{values[i]}, 1, {1.0}, 0});
    }
    return grid_edges(runs);
  };
  const auto high = edges_of({"0.001", "0.003", "0.01"}, 2);
  ASSERT_EQ(high.size(), 1u);
  EXPECT_TRUE(high[0].is_largest);
  EXPECT_THAT(high[0].beyond, ElementsAre("0.0333333", "0.111111"));
  const auto low = edges_of({"2", "4", "8"}, 0);
  ASSERT_EQ(low.size(), 1u);
  EXPECT_THAT(low[0].beyond, ElementsAre("1"));
  EXPECT_THAT(edges_of({"1", "2"}, 0), IsEmpty());  // half a head is none
  EXPECT_THAT(edges_of({"0.001", "0.003", "0.01"}, 1), IsEmpty());
  BestRuns zipped{{"heads", "std"}, {{{"100", "0.1"}, 1, {0.0}, 0}, {{"1", "0.01"}, 1, {1.0}, 0}, {{"5", "0.1"}, 1, {1.0}, 0}}};
  EXPECT_THAT(grid_edges(zipped), IsEmpty());
  EXPECT_THAT(edges_of({"exact", "clamped"}, 0), IsEmpty());
  EXPECT_THAT(edges_of({"0.001"}, 0), IsEmpty());
}

}  // namespace
}  // namespace mnemo
