// The last lines of a run, from directories made by hand.

#include "experiments/directory/summary.h"

#include "core/files.h"
#include "core/npy.h"
#include "support.h"

#include <fmt/format.h>

namespace mnemo {
namespace {

using test::TemporaryDirectory;
using ::testing::HasSubstr;

struct Row {
  std::int64_t step;
  float accuracy;  // of every rank
};

/// A run directory of K sequences, as far as a summary reads it.
class Directory {
 public:
  Directory(std::int64_t num_sequences, std::int64_t stride) : num_sequences_(num_sequences), stride_(stride) {
    config.data.num_sequences = num_sequences;
    config.eval.validation_stride = stride;
    write_atomically(root_ / "switches.json", "[]");
    make_directories(root_ / "theory");
  }

  Directory& phase(int k, const std::vector<Row>& rows, double ceiling) {
    const auto folder = root_.path() / "eval" / fmt::format("phase_{}", k);
    make_directories(folder);
    std::vector<std::int64_t> steps, ranks;
    for (std::int64_t rank = 0; rank < num_sequences_; rank += stride_) ranks.push_back(rank);
    std::vector<float> accuracy;
    for (const auto& row : rows) {
      steps.push_back(row.step);
      accuracy.insert(accuracy.end(), ranks.size(), row.accuracy);
    }
    write_npy(folder / "step.npy", row_of(steps));
    write_npy(folder / "rank.npy", row_of(ranks));
    write_npy(folder / "accuracy.npy", view_of(accuracy.data(), {std::ssize(steps), std::ssize(ranks)}));
    write_npy(folder / "loss.npy", view_of(accuracy.data(), {std::ssize(steps), std::ssize(ranks)}));  // not read
    std::vector<double> theory;
    for (std::int64_t rank = 0; rank < num_sequences_; ++rank) theory.insert(theory.end(), {0.1, ceiling});
    write_npy(root_.path() / "theory" / fmt::format("phase_{}.npy", k), view_of(theory.data(), {num_sequences_, 2}));
    return *this;
  }
  Directory& switch_at(std::int64_t step) {
    write_atomically(root_ / "switches.json", fmt::format("[{{\"phase\": 1, \"step\": {}}}]", step));
    return *this;
  }
  Directory& weights(const std::vector<double>& values) {
    config.data.weights = (root_.path() / "weights.npy").string();
    write_npy(*config.data.weights, row_of(values));
    return *this;
  }
  std::vector<PhaseSummary> summary() const { return summarize({root_.path(), config}, 10); }
  std::string text() const { return summary_text({root_.path(), config}); }

  RunConfig config;

 private:
  TemporaryDirectory root_;
  std::int64_t num_sequences_, stride_;
};

TEST(Summary, LearnedIsTheIntervalBetweenTwoEvaluations) {
  // one trajectory, which passes .9 of the way at step 1286, seen every 200, 20 and 2 steps
  for (const auto& [every, expected] : {std::pair<std::int64_t, StepInterval>{200, {1200, 1400}}, {20, {1280, 1300}}, {2, {1284, 1286}}}) {
    Directory directory(20, 1);
    std::vector<Row> rows;
    for (std::int64_t step = 0; step <= 3000; step += every) rows.push_back({step, step < 1286 ? 0.6F : 0.9F});
    directory.phase(0, rows, 0.9);
    EXPECT_EQ(directory.summary()[0].learned, expected);
    EXPECT_THAT(directory.text(), HasSubstr(fmt::format("   after {} to {} steps\n", expected.after, expected.by)));
  }
}

TEST(Summary, OfTwoRowsAtAStepTheFirstIsBeforeItsEvents) {
  Directory directory(20, 1);
  // warm start at 0; weights loaded at 4; at the switch the old sequences are scored once more, with the new ones
  directory.phase(0, {{0, .5F}, {0, .7F}, {4, .72F}, {4, .96F}, {8, .8F}, {8, .1F}, {12, .2F}}, 1).switch_at(8);
  directory.phase(1, {{8, .5F}, {12, .6F}}, 1);
  const auto phases = directory.summary();
  EXPECT_FLOAT_EQ(phases[0].at_begin, .7F);
  EXPECT_FLOAT_EQ(phases[0].at_switch, .8F);
  EXPECT_FLOAT_EQ(phases[0].at_end, .2F);
  EXPECT_EQ(phases[0].learned, (StepInterval{4, 4}));
  EXPECT_THAT(directory.text(), HasSubstr("   after 4 steps\n"));
  EXPECT_FLOAT_EQ(phases[1].at_begin, .5F);
  EXPECT_FLOAT_EQ(phases[1].at_end, .6F);
  EXPECT_THAT(directory.text(), HasSubstr("   not yet\n"));
  directory.phase(0, {{0, .5F}, {0, .96F}, {8, .97F}, {12, .2F}}, 1);
  EXPECT_THAT(directory.text(), HasSubstr("   from the start\n"));
}

TEST(Summary, WhatComesAfterTheSwitchDoesNotCount) {
  Directory directory(20, 1);
  directory.phase(0, {{0, .5F}, {8, .8F}, {8, .99F}, {12, .99F}}, 1).switch_at(8).phase(1, {{8, .5F}, {12, .6F}}, 1);
  EXPECT_FALSE(directory.summary()[0].learned);
}

TEST(Summary, NothingToLearnWhereTheCeilingIsNotAboveChance) {
  for (const double ceiling : {0.5, 0.49}) {
    Directory directory(20, 1);
    directory.phase(0, {{0, .5F}, {8, .6F}}, ceiling);
    EXPECT_FALSE(directory.summary()[0].learned);
    EXPECT_THAT(directory.text(), HasSubstr("   -\n"));
    EXPECT_THAT(directory.text(), HasSubstr("there is nothing to learn"));
  }
}

TEST(Summary, SaysHowManyRanksWereScored) {
  const auto headline = [](std::int64_t K, std::int64_t stride, const std::vector<double>& weights = {}) {
    Directory directory(K, stride);
    if (!weights.empty()) directory.weights(weights);
    const auto text = directory.phase(0, {{0, .5F}}, 1).text();
    return text.substr(1, text.find('\n', 1) - 1);
  };
  EXPECT_EQ(headline(100, 1), "accuracy of the 10 most frequent sequences (chance 0.5)");
  EXPECT_EQ(headline(100, 20), "accuracy of 1 of the 10 most frequent sequences, by eval.validation_stride (chance 0.5)");
  EXPECT_EQ(headline(100, 3), "accuracy of 4 of the 10 most frequent sequences, by eval.validation_stride (chance 0.5)");
  EXPECT_EQ(headline(4, 1), "accuracy of the 4 most frequent sequences (chance 0.5)");
  EXPECT_EQ(headline(8, 1, {1, 0, 2, 0, 3, 0, 0, 1}), "accuracy of the 4 most frequent sequences (chance 0.5)");  // the others are never drawn
}

TEST(Summary, SpeedIsEveryRatioThatTheIntervalsAllow) {
  EXPECT_EQ(speed_text({1600, 1800}, {400, 600}), "2.7x to 4.5x faster than phase 0");
  EXPECT_EQ(speed_text({400, 600}, {1600, 1800}), "2.7x to 4.5x slower than phase 0");
  EXPECT_EQ(speed_text({1600, 1800}, {0, 200}), "at least 8.0x faster than phase 0");
  EXPECT_EQ(speed_text({500, 1000}, {0, 500}), "faster than phase 0");
  EXPECT_EQ(speed_text({500, 1000}, {250, 500}), "1.0x to 4.0x faster than phase 0");
  EXPECT_EQ(speed_text({1284, 1286}, {428, 429}), "3.0x faster than phase 0");
  EXPECT_EQ(speed_text({400, 600}, {500, 700}), "too near to phase 0 to say which was faster");
  EXPECT_EQ(speed_text({0, 200}, {0, 200}), "too near to phase 0 to say which was faster");
  EXPECT_EQ(speed_text({0, 0}, {0, 200}), "");
  EXPECT_EQ(speed_text({0, 200}, {0, 0}), "");
}

}  // namespace
}  // namespace mnemo
