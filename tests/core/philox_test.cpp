#include "core/philox.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

namespace mnemo {
namespace {

TEST(Philox, KnownAnswersOfThePaper) {
  // Random123's kat_vectors for philox4x32-10; our key is (seed, stream)
  EXPECT_EQ(philox(0, Stream{0}, {0, 0, 0, 0}), (PhiloxBlock{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(philox(0xffffffff, Stream{0xffffffff}, {0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}),
            (PhiloxBlock{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(philox(0xa4093822, Stream{0x299f31d0}, {0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}),
            (PhiloxBlock{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(Philox, StreamsDiffer) {
  EXPECT_NE(philox(1, Stream::draws, {5, 0, 0, 0}), philox(1, Stream::weights, {5, 0, 0, 0}));
  EXPECT_NE(philox(1, Stream::draws, {5, 0, 0, 0}), philox(2, Stream::draws, {5, 0, 0, 0}));
}

TEST(Normal, HasTheMomentsOfTheNormalLaw) {
  std::vector<double> x(200000);
  fill_normal(x, 2.0, 7, "w");
  double mean = 0, square = 0, fourth = 0, beyond = 0;
  for (const double v : x) {
    mean += v;
    square += v * v;
    fourth += v * v * v * v;
    beyond += std::abs(v) > 2 * 1.959964;
  }
  const auto n = static_cast<double>(x.size());
  EXPECT_NEAR(mean / n, 0, 5 * 2 / std::sqrt(n));
  EXPECT_NEAR(square / n, 4, 5 * 4 * std::sqrt(2 / n));
  EXPECT_NEAR(fourth / n / 16, 3, 5 * std::sqrt(96 / n));
  EXPECT_NEAR(beyond / n, 0.05, 5 * std::sqrt(0.05 / n));
}

TEST(Normal, AnElementDependsOnSeedNameAndIndexAlone) {
  std::vector<double> longer(11), shorter(4), other(4);
  fill_normal(longer, 1, 3, "c_attn.weight");
  fill_normal(shorter, 1, 3, "c_attn.weight");
  fill_normal(other, 1, 3, "wte.weight");
  EXPECT_EQ(std::vector(longer.begin(), longer.begin() + 4), shorter);
  EXPECT_NE(shorter, other);
}

}  // namespace
}  // namespace mnemo
