#include "core/batches.h"

#include "core/zipf.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <numeric>

namespace mnemo {
namespace {

std::string prefix_text(const SequenceTable& table, std::int64_t rank, std::int64_t bits) {
  std::string text;
  for (std::int64_t i = 0; i < bits; ++i) text += table.bit(rank, i) ? '1' : '0';
  return text;
}

/// Prefix -> mass of next bit 0 and 1, counted straight from the draws.
std::map<std::string, std::array<double, 2>> masses(const SequenceTable& table, std::span<const std::int32_t> drawn, std::int64_t first) {
  std::map<std::string, std::array<double, 2>> found;
  const double share = 1.0 / static_cast<double>(drawn.size()) / static_cast<double>(table.length() - first);
  for (const auto rank : drawn) {
    for (std::int64_t n = first; n < table.length(); ++n) found[prefix_text(table, rank, n)][table.bit(rank, n)] += share;
  }
  return found;
}

void expect_cells(const SequenceTable& table, std::span<const std::int32_t> drawn, std::int64_t first = 1) {
  const auto expected = masses(table, drawn, first);
  const auto cells = cells_of_batch(table, drawn, Sharing::prefixes, first);
  ASSERT_EQ(static_cast<std::size_t>(cells.num_cells()), expected.size());  // one cell a distinct prefix
  for (std::size_t n = 0; n < expected.size(); ++n) {
    const auto prefix = prefix_text(table, cells.ranks[static_cast<std::size_t>(cells.row[n])], cells.position[n] + first);
    const auto& mass = expected.at(prefix);
    EXPECT_NEAR(cells.weight[2 * n], mass[0], 1e-15) << prefix;
    EXPECT_NEAR(cells.weight[2 * n + 1], mass[1], 1e-15) << prefix;
  }
  const auto positions = cells.num_positions();
  for (std::int64_t u = 0; u < cells.num_rows(); ++u) {  // every prediction of every row finds the cell with its prefix
    for (std::int64_t c = 0; c < positions; ++c) {
      const auto cell = static_cast<std::size_t>(cells.cell_of[static_cast<std::size_t>(u * positions + c)]);
      EXPECT_EQ(cells.position[cell], c);
      EXPECT_EQ(prefix_text(table, cells.ranks[static_cast<std::size_t>(cells.row[cell])], c + first),
                prefix_text(table, cells.ranks[static_cast<std::size_t>(u)], c + first));
    }
    const auto drawn_here = std::count(drawn.begin(), drawn.end(), cells.ranks[static_cast<std::size_t>(u)]);
    EXPECT_NEAR(cells.row_weight[static_cast<std::size_t>(u)], static_cast<double>(drawn_here) / static_cast<double>(drawn.size()), 1e-15);
  }
}

TEST(Cells, AreTheDistinctPrefixesWithTheirMasses) {
  for (const std::int64_t length : {2, 5, 20, 70}) {
    for (const std::int64_t num_sequences : {1, 3, 100}) {
      const auto table = SequenceTable::random(2, 0, num_sequences, length);
      const auto sampler = RankSampler::zipf(num_sequences, 1);
      for (const std::int64_t batch : {1, 2, 64}) {
        DrawStream draws(sampler, 4, batch);
        for (const std::int64_t first : {0, 1}) expect_cells(table, draws.ranks(0), first);
      }
    }
  }
}

TEST(Cells, MergeEqualSequencesOfDifferentRank) {
  const std::vector<std::uint8_t> bits{0, 1, 1, 0, 1, 1, 0, 1, 0};
  const auto table = SequenceTable::from_array(view_of(bits.data(), {3, 3}));
  const std::vector<std::int32_t> drawn{0, 1, 2, 1};
  expect_cells(table, drawn);
  EXPECT_EQ(cells_of_batch(table, drawn).num_cells(), 2);
}

TEST(Cells, WithoutSharingKeepEveryRowAndPosition) {
  const auto table = SequenceTable::random(2, 0, 5, 8);
  const std::vector<std::int32_t> drawn{0, 0, 3, 1};
  const auto cells = cells_of_batch(table, drawn, Sharing::none);
  EXPECT_EQ(cells.ranks, drawn);
  EXPECT_EQ(cells.num_cells(), 4 * 7);
  EXPECT_NEAR(std::accumulate(cells.weight.begin(), cells.weight.end(), 0.0), 1, 1e-12);
}

TEST(Cells, ShareAsMuchAsMeasured) {
  // MATHS 2.2: needed cells / (B (L-1)) = .685 for K = 1e5, L = 100, B = 256; .57 for K = 256, L = 20, B = 32
  const auto share = [](std::int64_t num_sequences, std::int64_t length, std::int64_t batch) {
    const auto table = SequenceTable::random(1, 0, num_sequences, length);
    const auto sampler = RankSampler::zipf(num_sequences, 1);
    DrawStream draws(sampler, 1, batch);
    double cells = 0;
    for (int step = 0; step < 50; ++step) cells += static_cast<double>(cells_of_batch(table, draws.ranks(step)).num_cells());
    return cells / 50 / static_cast<double>(batch * (length - 1));
  };
  EXPECT_NEAR(share(100000, 100, 256), 0.685, 0.01);
  EXPECT_NEAR(share(256, 20, 32), 0.57, 0.02);
}

}  // namespace
}  // namespace mnemo
