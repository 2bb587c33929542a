#include "experiments/run/theory.h"

#include "core/safetensors.h"
#include "core/zipf.h"
#include "golden.h"

#include <gtest/gtest.h>

#include <cmath>
#include <map>

namespace mnemo {
namespace {

TEST(TheoryGolden, EveryCase) {
  const auto cases = golden_cases("theory");
  ASSERT_FALSE(cases.empty());
  for (const auto& golden : cases) {
    SCOPED_TRACE(golden.at("name").get<std::string>());
    const auto file = read_golden(golden);
    const auto table = SequenceTable::from_array(file.at("bits"));
    const auto p = file.get<double>("p");
    const auto theory = bayes(table, p);
    expect_golden(theory.loss, file, "loss_per_rank");
    expect_golden(theory.accuracy, file, "accuracy_per_rank");
    expect_golden(std::vector{theory.mean_loss}, file, "loss");
    expect_golden(std::vector{theory.mean_accuracy}, file, "accuracy");
    const auto zipf = RankSampler::zipf(table.num_sequences(), golden.at("zipf_exponent").get<double>());
    expect_golden(zipf.probabilities(), file, "p");
    // a bin for each rank, and the mean over its positions
    std::vector<std::pair<std::int64_t, std::int64_t>> each;
    for (std::int64_t rank = 0; rank < table.num_sequences(); ++rank) each.emplace_back(rank, rank + 1);
    const auto by_position = bayes(table, p, 1, false, each).by_position;
    const auto positions = static_cast<std::size_t>(table.length() - 1);
    ASSERT_EQ(by_position.size(), 2 * each.size() * positions);
    std::vector<double> means[2] = {std::vector<double>(each.size()), std::vector<double>(each.size())};
    for (std::size_t i = 0; i < by_position.size(); ++i) means[i % 2][i / (2 * positions)] += by_position[i] / static_cast<double>(positions);
    expect_golden(means[0], file, "loss_per_rank");
    expect_golden(means[1], file, "accuracy_per_rank");
  }
}

/// The definition, straight: every prefix of every rank against all ranks.
void expect_definition(const SequenceTable& table, const std::vector<double>& p, std::int64_t first, bool of_sequences) {
  const auto K = table.num_sequences(), L = table.length();
  std::vector<std::pair<std::int64_t, std::int64_t>> bins{{0, std::min<std::int64_t>(3, K)}};
  if (K > 3) bins.emplace_back(3, K);
  const auto theory = bayes(table, p, first, of_sequences, bins);
  std::vector<double> by_position(2 * bins.size() * static_cast<std::size_t>(L - first));
  double mean_loss = 0, mean_accuracy = 0, retrieval = 0, num_distinct = 0;
  for (std::int64_t a = 0; a < K; ++a) {
    double loss = 0, accuracy = 0, copies = 0;
    for (std::int64_t b = 0; b < K; ++b) copies += table.common_prefix(a, b) == L;
    num_distinct += 1 / copies;
    for (std::int64_t n = first; n < L; ++n) {
      double all = 0, agree = 0, own = 0;
      std::map<std::string, double> strings;
      double nats, right;
      for (std::int64_t b = 0; b < K; ++b) {
        if (table.common_prefix(a, b) < n) continue;
        const auto mass = p[static_cast<std::size_t>(b)];
        all += mass;
        if (table.bit(a, n) == table.bit(b, n)) agree += mass;
        std::string text;
        for (std::int64_t i = 0; i < L; ++i) text += table.bit(b, i) ? '1' : '0';
        strings[text] += mass;
        if (table.common_prefix(a, b) == L) own += mass;
      }
      if (of_sequences) {
        double best = 0, ties = 0;
        for (const auto& [text, mass] : strings) best = std::max(best, mass);
        for (const auto& [text, mass] : strings) ties += mass == best;
        nats = -std::log(own / all);
        right = own == best ? 1 / ties : 0;
      } else {
        const double share = agree / all;
        nats = -std::log(share);
        right = std::abs(share - 0.5) < 1e-12 ? 0.5 : share > 0.5;
      }
      loss += nats;
      accuracy += right;
      const std::size_t bin = a >= 3, at = 2 * (bin * static_cast<std::size_t>(L - first) + static_cast<std::size_t>(n - first));
      const auto ranks = static_cast<double>(bins[bin].second - bins[bin].first);
      by_position[at] += nats / ranks;
      by_position[at + 1] += right / ranks;
      retrieval += 1 / copies / static_cast<double>(strings.size());
    }
    const auto predictions = static_cast<double>(L - first);
    EXPECT_NEAR(theory.loss[static_cast<std::size_t>(a)], loss / predictions, 1e-12);
    EXPECT_NEAR(theory.accuracy[static_cast<std::size_t>(a)], accuracy / predictions, 1e-12);
    mean_loss += p[static_cast<std::size_t>(a)] * loss / predictions;
    mean_accuracy += p[static_cast<std::size_t>(a)] * accuracy / predictions;
  }
  ASSERT_EQ(theory.by_position.size(), by_position.size());
  for (std::size_t i = 0; i < by_position.size(); ++i) EXPECT_NEAR(theory.by_position[i], by_position[i], 1e-12) << i;
  EXPECT_NEAR(theory.mean_loss, mean_loss, 1e-12);
  EXPECT_NEAR(theory.mean_accuracy, mean_accuracy, 1e-12);
  EXPECT_NEAR(theory.retrieval, retrieval / (num_distinct * static_cast<double>(L - first)), 1e-12);
  if (of_sequences) return;
  double mass[2] = {0, 0};  // of sequences by their first bit
  for (std::int64_t a = 0; a < K; ++a) mass[table.bit(a, 0)] += p[static_cast<std::size_t>(a)];
  double first_bit_entropy = 0;
  for (const auto m : mass) first_bit_entropy -= first == 1 && m > 0 ? m * std::log(m) : 0;
  EXPECT_NEAR(theory.mean_loss, (theory.entropy - first_bit_entropy) / static_cast<double>(L - first), 1e-12);  // chain rule
}

TEST(Theory, IsTheDefinition) {
  for (const std::int64_t length : {2, 4, 12}) {
    for (const std::int64_t num_sequences : {1, 2, 40}) {
      for (const double exponent : {0.0, 1.0}) {
        const auto table = SequenceTable::random(3, 0, num_sequences, length);  // 2 and 4 bits: equal sequences in both bins
        for (const std::int64_t first : {0, 1}) {
          for (const bool of_sequences : {false, true})
            expect_definition(table, RankSampler::zipf(num_sequences, exponent).probabilities(), first, of_sequences);
        }
      }
    }
  }
}

struct Row {
  std::int64_t num_sequences, length;
  double exponent, entropy, floor, accuracy, unweighted, retrieval;
};

TEST(Theory, ReproducesTheTable) {  // MATHS 6
  const Row rows[] = {{100000, 100, 1, 7.9680, .0735, .960, .923, .843}, {1000, 100, 1, 5.1910, .0455, .977, .957, .910},
                      {500, 50, 0, 6.2146, .1127, .929, .929, .840},     {500, 50, 1, 4.7489, .0832, .958, .923, .840},
                      {1000, 100, 0, 6.9078, .0628, .960, .960, .910},   {10000, 100, 0, 9.2103, .0860, .943, .943, .877}};
  for (const auto& row : rows) {
    SCOPED_TRACE(testing::Message() << "K=" << row.num_sequences << " L=" << row.length << " s=" << row.exponent);
    const auto table = SequenceTable::random(0, 0, row.num_sequences, row.length);
    const auto theory = bayes(table, RankSampler::zipf(row.num_sequences, row.exponent).probabilities());
    EXPECT_NEAR(theory.entropy, row.entropy, 5e-4);
    EXPECT_NEAR(theory.mean_loss, row.floor, 2e-3);  // five standard deviations over drawn tables at K = 500
    EXPECT_NEAR(theory.mean_accuracy, row.accuracy, 2.5e-3);
    EXPECT_NEAR(theory.unweighted_accuracy(), row.unweighted, 2.5e-3);
    EXPECT_NEAR(theory.retrieval, row.retrieval, 4e-3);
    if (row.num_sequences == 100000) {
      EXPECT_NEAR(Theory::mean(theory.accuracy, 0, 10), .989, 4e-3);
      EXPECT_NEAR(Theory::mean(theory.accuracy, 0, 1000), .956, 2e-3);
      EXPECT_NEAR(Theory::mean(theory.accuracy, 1000, 2000), .946, 2e-3);
      EXPECT_NEAR(Theory::mean(theory.accuracy, 2000, 3000), .943, 2e-3);
    }
  }
}

TEST(Theory, WithoutBinsHasNoPositions) {
  const auto table = SequenceTable::random(1, 0, 5, 6);
  EXPECT_TRUE(bayes(table, std::vector(5, 0.2)).by_position.empty());
}

TEST(Theory, SequencesThatAreNeverDrawnLeaveTheMeansFinite) {
  const auto table = SequenceTable::random(3, 0, 4, 12);
  const auto theory = bayes(table, std::vector{0.75, 0.25, 0.0, 0.0});
  EXPECT_TRUE(std::isfinite(theory.mean_loss));
  EXPECT_EQ(theory.loss[2], INFINITY);
  EXPECT_GE(theory.accuracy[2], 0);
  EXPECT_EQ(std::signbit(bayes(table, std::vector{1.0, 0.0, 0.0, 0.0}).entropy), false);  // no "-0.0000"
}

TEST(Theory, OneSequenceIsCertain) {
  const auto table = SequenceTable::random(1, 0, 1, 10);
  const auto theory = bayes(table, std::vector{1.0});
  EXPECT_EQ(theory.mean_loss, 0);
  EXPECT_EQ(theory.mean_accuracy, 1);
  EXPECT_EQ(theory.retrieval, 1);
}

}  // namespace
}  // namespace mnemo
