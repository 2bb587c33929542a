#include "core/zipf.h"

#include "core/philox.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>

namespace mnemo {
namespace {

TEST(RankSampler, KnownProbabilities) {
  EXPECT_NEAR(RankSampler::zipf(100000, 1).probabilities()[0], 0.08271, 5e-6);  // MATHS 6
  const auto half = RankSampler::zipf(2, 1).probabilities();
  EXPECT_DOUBLE_EQ(half[0], 2.0 / 3);
  EXPECT_DOUBLE_EQ(half[1], 1.0 / 3);
  const auto uniform = RankSampler::zipf(1000, 0).probabilities();
  EXPECT_DOUBLE_EQ(uniform[0], 1e-3);
  EXPECT_DOUBLE_EQ(uniform[999], 1e-3);
}

TEST(RankSampler, ThresholdsAreExactIntegers) {
  const auto sampler = RankSampler::zipf(2, 0);
  EXPECT_EQ(sampler.rank_of(0), 0);
  EXPECT_EQ(sampler.rank_of((std::uint64_t{1} << 63) - 1), 0);
  EXPECT_EQ(sampler.rank_of(std::uint64_t{1} << 63), 1);
  EXPECT_EQ(sampler.rank_of(UINT64_MAX), 1);
  EXPECT_EQ(RankSampler::zipf(1, 1).rank_of(UINT64_MAX), 0);
}

TEST(RankSampler, EveryRankOfALongTailOwnsItsShare) {
  const auto sampler = RankSampler::zipf(1000000, 1);
  const auto& p = sampler.probabilities();
  // the first integer of each rank, found by bisection: the owned shares match to 2^-50 of the whole
  const auto first_of = [&](std::int32_t rank) {
    std::uint64_t low = 0, high = UINT64_MAX;
    while (low < high) {
      const auto middle = low + (high - low) / 2;
      if (sampler.rank_of(middle) >= rank)
        high = middle;
      else
        low = middle + 1;
    }
    return low;
  };
  for (const std::int32_t rank : {1, 10, 9999, 500000, 999998}) {
    const auto share = static_cast<double>(first_of(rank + 1) - first_of(rank)) * 0x1p-64;
    EXPECT_NEAR(share / p[static_cast<std::size_t>(rank)], 1, 1e-9) << rank;
  }
}

TEST(RankSampler, NeverDrawsARankOfWeightZero) {
  const RankSampler sampler(std::vector<double>{0, 1, 0, 3, 0});
  EXPECT_EQ(sampler.rank_of(0), 1);
  EXPECT_EQ(sampler.rank_of(std::uint64_t{1} << 62), 3);
  EXPECT_EQ(sampler.rank_of(UINT64_MAX), 3);
}

/// Chi-square over log-spaced bins of ranks (merged until each expects 20 draws) stays below mean + 5 sd.
void expect_law(std::int64_t num_ranks, double exponent) {
  const auto sampler = RankSampler::zipf(num_ranks, exponent);
  DrawStream draws(sampler, 11, 1000);
  std::vector<double> count(static_cast<std::size_t>(num_ranks));
  const int steps = 200;
  for (int step = 0; step < steps; ++step) {
    for (const auto rank : draws.ranks(step)) count[static_cast<std::size_t>(rank)] += 1;
  }
  const double total = std::accumulate(count.begin(), count.end(), 0.0);
  ASSERT_EQ(total, steps * 1000);
  double chi_square = 0, expected = 0, observed = 0;
  int bins = 0;
  std::size_t edge = 1;
  for (std::size_t a = 0; a < count.size(); ++a) {
    expected += total * sampler.probabilities()[a];
    observed += count[a];
    const bool at_edge = a + 1 >= edge;
    if ((at_edge && expected >= 20) || a + 1 == count.size()) {
      chi_square += (observed - expected) * (observed - expected) / std::max(expected, 1e-9);
      ++bins;
      expected = observed = 0;
    }
    if (at_edge) edge = std::max(edge + 1, edge * 5 / 4);
  }
  const double freedom = std::max(bins - 1, 1);
  EXPECT_LT(chi_square, freedom + 5 * std::sqrt(2 * freedom) + 5) << "K=" << num_ranks << " s=" << exponent << " bins=" << bins;
}

TEST(DrawStream, FollowsTheLaw) {
  for (const double exponent : {0.0, 0.5, 1.0, 1.5}) {
    for (const std::int64_t num_ranks : {1, 2, 1000, 100000, 1000000}) expect_law(num_ranks, exponent);
  }
}

TEST(DrawStream, IsAFunctionOfSeedAndStep) {
  const auto sampler = RankSampler::zipf(1000, 1);
  DrawStream forward(sampler, 5, 7), backward(sampler, 5, 7), other(sampler, 6, 7), wider(sampler, 5, 9);
  std::vector<std::vector<std::int32_t>> seen;
  for (std::int64_t step = 0; step < 200; ++step) {
    const auto ranks = forward.ranks(step);
    seen.emplace_back(ranks.begin(), ranks.end());
  }
  for (std::int64_t step = 199; step >= 0; --step) {
    const auto ranks = backward.ranks(step);
    EXPECT_TRUE(std::equal(ranks.begin(), ranks.end(), seen[static_cast<std::size_t>(step)].begin()));
    const auto more = wider.ranks(step);  // a row's draw does not depend on the size of the batch
    EXPECT_TRUE(std::equal(ranks.begin(), ranks.end(), more.begin()));
  }
  const auto ranks = other.ranks(0);
  EXPECT_FALSE(std::equal(ranks.begin(), ranks.end(), seen[0].begin()));
}

TEST(DrawStream, UnseenMassFallsAsItShould) {
  // MATHS 6: K = 1e5, unseen mass .0973 after 256,000 draws
  const auto sampler = RankSampler::zipf(100000, 1);
  DrawStream draws(sampler, 1, 256);
  std::vector<bool> seen(100000);
  for (int step = 0; step < 1000; ++step) {
    for (const auto rank : draws.ranks(step)) seen[static_cast<std::size_t>(rank)] = true;
  }
  double unseen = 0;
  for (std::size_t a = 0; a < seen.size(); ++a) unseen += seen[a] ? 0 : sampler.probabilities()[a];
  EXPECT_NEAR(unseen, 0.0973, 0.001);
}

}  // namespace
}  // namespace mnemo
