#include "core/sequences.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <set>

namespace mnemo {
namespace {

std::string text(const SequenceTable& table, std::int64_t rank) {
  std::string bits;
  for (std::int64_t i = 0; i < table.length(); ++i) bits += table.bit(rank, i) ? '1' : '0';
  return bits;
}

TEST(SequenceTable, IsAFunctionOfSeedPhaseAndRank) {
  for (const std::int64_t length : {2, 63, 64, 65, 100, 128, 129, 300}) {
    const auto few = SequenceTable::random(3, 0, 5, length), many = SequenceTable::random(3, 0, 50, length);
    const auto other_phase = SequenceTable::random(3, 1, 50, length), novel = SequenceTable::novel(3, 50, length);
    for (std::int64_t rank = 0; rank < 5; ++rank) EXPECT_EQ(text(few, rank), text(many, rank)) << length;
    if (length >= 63) {
      EXPECT_NE(text(many, 0), text(other_phase, 0));
      EXPECT_NE(text(many, 0), text(novel, 0));
    }
  }
}

TEST(SequenceTable, BitsAreFairAndIndependentOfTheirNeighbours) {
  const auto table = SequenceTable::random(1, 0, 4000, 100);
  double ones = 0, equal_neighbours = 0;
  for (std::int64_t rank = 0; rank < 4000; ++rank) {
    for (std::int64_t i = 0; i < 100; ++i) {
      ones += table.bit(rank, i);
      if (i > 0) equal_neighbours += table.bit(rank, i) == table.bit(rank, i - 1);
    }
  }
  EXPECT_NEAR(ones / 400000, 0.5, 5 * 0.5 / std::sqrt(400000.0));
  EXPECT_NEAR(equal_neighbours / 396000, 0.5, 5 * 0.5 / std::sqrt(396000.0));
}

TEST(SequenceTable, OrderIsLexicographicAndPrefixesAreRight) {
  for (const std::int64_t length : {3, 70, 130}) {
    const auto table = SequenceTable::random(9, 0, 200, length);
    for (std::size_t i = 0; i < 200; ++i) {
      const auto rank = table.order()[i];
      EXPECT_EQ(table.place(rank), static_cast<std::int32_t>(i));
      if (i == 0) continue;
      const auto before = text(table, table.order()[i - 1]), here = text(table, rank);
      EXPECT_LE(before, here);
      const auto shared = std::mismatch(before.begin(), before.end(), here.begin()).first - before.begin();
      EXPECT_EQ(table.common_prefix(table.order()[i - 1], rank), shared);
    }
  }
}

TEST(SequenceTable, ReadsArraysAndRefusesOtherValues) {
  const std::vector<std::int64_t> bits{0, 1, 1, 1, 0, 0};
  const auto table = SequenceTable::from_array(view_of(bits.data(), {2, 3}));
  EXPECT_EQ(text(table, 0), "011");
  EXPECT_EQ(text(table, 1), "100");
  EXPECT_EQ(table.unpack_all(), (std::vector<std::uint8_t>{0, 1, 1, 1, 0, 0}));
  const std::vector<std::int64_t> last_first{1, 0};
  EXPECT_EQ(SequenceTable::from_array(view_of(bits.data(), {2, 3}), last_first).unpack_all(), (std::vector<std::uint8_t>{1, 0, 0, 0, 1, 1}));
  const std::vector<std::int32_t> bad{0, 1, 2, 1};
  for (const auto& rows : {std::vector<std::int64_t>{}, last_first}) {
    try {
      SequenceTable::from_array(view_of(bad.data(), {2, 2}), rows);
      FAIL();
    } catch (const std::invalid_argument& error) {
      EXPECT_STREQ(error.what(), "holds 2 at row 1, column 0; expected bits 0 and 1");
    }
  }
  const std::vector<float> floats{0, 1};
  EXPECT_THROW(SequenceTable::from_array(view_of(floats.data(), {1, 2})), std::invalid_argument);
}

TEST(SequenceTable, DigestNamesBitsAndShape) {
  std::set<std::string> digests;
  for (const std::uint32_t seed : {1u, 2u}) {
    for (const std::int64_t length : {8, 9}) digests.insert(SequenceTable::random(seed, 0, 4, length).digest());
  }
  EXPECT_EQ(digests.size(), 4u);
  EXPECT_EQ(SequenceTable::random(1, 0, 4, 8).digest(), SequenceTable::random(1, 0, 4, 8).digest());
}

}  // namespace
}  // namespace mnemo
