// Cells of a batch on the device against cells_of_batch(): the same rows in the same order, the same cells, and each cell's draws counted one by one.

#include "core/batches.h"
#include "core/device_cells.h"
#include "simt_test.h"

#include <map>
#include <memory>
#include <set>
#include <stdexcept>

namespace mnemo {
namespace {

using simt::Device;
using Ints = std::vector<std::int32_t>;

/// A SequenceTable on the device.
struct Uploaded {
  Device<std::uint64_t> words;
  Device<std::int32_t> place, order;

  explicit Uploaded(const SequenceTable& table)
      : words(words_of(table)), place(places_of(table)), order(Ints(table.order().begin(), table.order().end())) {}
  DeviceTable pointers() const { return {words, place, order}; }

  static std::vector<std::uint64_t> words_of(const SequenceTable& table) {
    std::vector<std::uint64_t> words;
    for (std::int64_t rank = 0; rank < table.num_sequences(); ++rank) words.insert(words.end(), table.row(rank).begin(), table.row(rank).end());
    return words;
  }
  static Ints places_of(const SequenceTable& table) {
    Ints places;
    for (std::int32_t rank = 0; rank < table.num_sequences(); ++rank) places.push_back(table.place(rank));
    return places;
  }
};

struct Outputs {
  Ints num_rows_R, first_RG, rank_RB, count_RB, row_RN, mass_RN2;
  std::vector<std::uint64_t> bits_RBW;
};

/// Of R replicas that draw from tables of one length. No draws: the replica takes no part.
Outputs cells_on_device(const std::vector<SequenceTable>& tables, const std::vector<Ints>& drawn, const DeviceBatchShape& shape) {
  const auto [ranks, bits, integers] = simt::in_every_order([&] {
    std::vector<std::unique_ptr<Uploaded>> uploaded;
    std::vector<DeviceTable> pointers;
    Ints drawn_RB;
    std::vector<std::uint8_t> active;
    for (std::size_t r = 0; r < tables.size(); ++r) {
      uploaded.push_back(std::make_unique<Uploaded>(tables[r]));
      pointers.push_back(uploaded.back()->pointers());
      active.push_back(!drawn[r].empty());
      const auto begin = drawn_RB.insert(drawn_RB.end(), drawn[r].begin(), drawn[r].end());
      drawn_RB.insert(begin + static_cast<std::ptrdiff_t>(drawn[r].size()), static_cast<std::size_t>(shape.batch) - drawn[r].size(), -1);
    }
    const Device<DeviceTable> tables_R(pointers);
    const Device<std::int32_t> drawn_(drawn_RB);
    const Device<std::uint8_t> active_R(active);
    const auto R = tables.size(), B = static_cast<std::size_t>(shape.batch), N = static_cast<std::size_t>(shape.capacity()),
               G = static_cast<std::size_t>(shape.groups()), W = static_cast<std::size_t>(shape.words());
    const Device<std::int32_t> num_rows(R), first(R * (G + 1)), rank(R * B), count(R * B), row(R * N), mass(2 * R * N);
    const Device<std::uint64_t> words(R * B * W);
    device_cells_cuda({shape, num_rows, first, words, rank, count, row, mass}, drawn_, tables_R, active_R, nullptr);
    return std::tuple(num_rows.host(), words.host(), std::vector<Ints>{first.host(), rank.host(), count.host(), row.host(), mass.host()});
  });
  return {ranks, integers[0], integers[1], integers[2], integers[3], integers[4], bits};
}

/// Draws that begin as the first `bits` bits of `rank` do, and go on with 0 and with 1.
std::pair<int, int> mass_of(const SequenceTable& table, const Ints& drawn, std::int32_t rank, std::int64_t bits) {
  std::pair<int, int> mass{0, 0};
  for (const auto other : drawn) {
    if (table.common_prefix(rank, other) >= bits) ++(table.bit(other, bits) ? mass.second : mass.first);
  }
  return mass;
}

template <class T>
void expect_unwritten(const std::vector<T>& values, std::size_t begin, std::size_t end) {
  for (auto i = begin; i < end; ++i) ASSERT_EQ(values[i], static_cast<T>(-1)) << "wrote past the true count, at " << i;
}

void check(const std::vector<SequenceTable>& tables, const std::vector<Ints>& drawn, int first_predicted_bit = 1) {
  std::size_t batch = 0;
  for (const auto& of : drawn) batch = std::max(batch, of.size());
  const DeviceBatchShape shape{static_cast<int>(tables.size()), static_cast<int>(batch), static_cast<int>(tables[0].length()), first_predicted_bit};
  SCOPED_TRACE("L = " + std::to_string(shape.length) + ", B = " + std::to_string(batch) + ", first predicted bit " +
               std::to_string(first_predicted_bit));
  const auto got = cells_on_device(tables, drawn, shape);
  const auto B = batch, N = static_cast<std::size_t>(shape.capacity()), G = static_cast<std::size_t>(shape.groups()),
             W = static_cast<std::size_t>(shape.words());
  for (std::size_t r = 0; r < tables.size(); ++r) {
    SCOPED_TRACE("replica " + std::to_string(r));
    const auto& table = tables[r];
    const auto want = drawn[r].empty() ? Cells{} : cells_of_batch(table, drawn[r], Sharing::prefixes, first_predicted_bit);
    const auto rows = static_cast<std::size_t>(want.num_rows());
    ASSERT_EQ(got.num_rows_R[r], want.num_rows());
    for (std::size_t u = 0; u < rows; ++u) {
      const auto rank = got.rank_RB[r * B + u];
      ASSERT_EQ(rank, want.ranks[u]);
      EXPECT_EQ(got.count_RB[r * B + u], std::count(drawn[r].begin(), drawn[r].end(), rank));
      for (std::size_t w = 0; w < W; ++w) EXPECT_EQ(got.bits_RBW[(r * B + u) * W + w], table.row(rank)[w]);
    }
    expect_unwritten(got.rank_RB, r * B + rows, (r + 1) * B);
    expect_unwritten(got.count_RB, r * B + rows, (r + 1) * B);
    expect_unwritten(got.bits_RBW, (r * B + rows) * W, (r + 1) * B * W);

    const auto* first_G = got.first_RG.data() + r * (G + 1);
    ASSERT_EQ(first_G[0], 0);
    ASSERT_EQ(first_G[G], want.num_cells());
    std::map<std::pair<int, int>, double> weights[2];  // of (row, position)
    for (std::size_t n = 0; n < static_cast<std::size_t>(want.num_cells()); ++n) {
      for (std::size_t y = 0; y < 2; ++y) weights[y][{want.row[n], want.position[n]}] = want.weight[2 * n + y];
    }
    std::set<std::pair<int, int>> seen;
    for (std::size_t g = 0; g < G; ++g) {
      const auto position = static_cast<std::int64_t>(g / 2), predicted = position + first_predicted_bit;
      ASSERT_LE(first_G[g], first_G[g + 1]);
      for (auto n = r * N + static_cast<std::size_t>(first_G[g]); n < r * N + static_cast<std::size_t>(first_G[g + 1]); ++n) {
        const auto row = got.row_RN[n];
        ASSERT_TRUE(row >= 0 && row < static_cast<int>(rows));
        EXPECT_TRUE(n == r * N + static_cast<std::size_t>(first_G[g]) || got.row_RN[n - 1] < row);
        const auto rank = want.ranks[static_cast<std::size_t>(row)];
        EXPECT_EQ(predicted > 0 && table.bit(rank, predicted - 1), g % 2 == 1);
        const std::pair<int, int> cell(row, static_cast<int>(position)), mass(got.mass_RN2[2 * n], got.mass_RN2[2 * n + 1]);
        ASSERT_TRUE(weights[0].count(cell)) << "no such cell";
        EXPECT_TRUE(seen.insert(cell).second) << "twice";
        EXPECT_EQ(mass, mass_of(table, drawn[r], rank, predicted));
        const double draws = static_cast<double>(B) * static_cast<double>(want.num_positions());
        EXPECT_NEAR(mass.first / draws, weights[0][cell], 1e-15);
        EXPECT_NEAR(mass.second / draws, weights[1][cell], 1e-15);
      }
    }
    EXPECT_EQ(static_cast<std::int64_t>(seen.size()), want.num_cells());
    expect_unwritten(got.row_RN, r * N + seen.size(), (r + 1) * N);
    expect_unwritten(got.mass_RN2, 2 * (r * N + seen.size()), 2 * (r + 1) * N);
  }
}

Ints draw(int batch, int num_ranks, unsigned seed = 7) {
  simt::Random random{std::mt19937(seed)};
  Ints ranks;
  for (int i = 0; i < batch; ++i) ranks.push_back(random.below(1 + random.below(num_ranks)));  // lower ones more often
  return ranks;
}

/// K sequences that share long prefixes: bit i is 0 but for every `every`th.
SequenceTable alike(std::int64_t num_sequences, std::int64_t length, int every) {
  simt::Random random;
  std::vector<std::uint8_t> bits;
  for (std::int64_t i = 0; i < num_sequences * length; ++i) bits.push_back(random.below(every) == 0);
  return SequenceTable::from_array(view_of(bits.data(), {num_sequences, length}));
}

TEST(DeviceCells, OfManyLengths) {
  for (const int length : {2, 3, 20, 63, 64, 65, 128, 200}) {
    for (const int first : {0, 1}) check({SequenceTable::random(1, 0, 50, length)}, {draw(21, 50)}, first);
  }
}

TEST(DeviceCells, OfBatchesOfManySizes) {
  for (const int batch : {1, 2, 31, 32, 33, 64, 100}) check({SequenceTable::random(3, 0, 40, 9)}, {draw(batch, 40)});
}

TEST(DeviceCells, OfRowsWithLongCommonPrefixes) {
  for (const int first : {0, 1}) check({alike(80, 70, 25)}, {draw(90, 80)}, first);
}

TEST(DeviceCells, OfRanksWhoseSequencesAreEqual) {
  const auto table = alike(30, 5, 4);  // a few distinct ones of 5 bits
  Ints drawn = draw(40, 30);
  for (std::int32_t rank = 0; rank < 30; ++rank) drawn.push_back(rank);
  for (const int first : {0, 1}) check({table}, {drawn}, first);
}

TEST(DeviceCells, OfOneRowDrawnAgainAndAgain) {
  for (const int first : {0, 1}) check({SequenceTable::random(5, 0, 3, 12)}, {Ints(40, 2)}, first);
}

TEST(DeviceCells, OfReplicasWithTablesOfTheirOwnOneOfWhichTakesNoPart) {
  check({SequenceTable::random(1, 0, 20, 33), SequenceTable::random(2, 0, 5, 33), SequenceTable::random(3, 0, 60, 33)},
        {draw(17, 20, 1), {}, draw(17, 60, 3)});
}

TEST(DeviceCells, OfTheLargestBatch) {
  if (simt::kTsan) GTEST_SKIP() << "smaller ones show its races";
  check({SequenceTable::random(1, 0, 3000, 6)}, {draw(kMaxDeviceBatch, 3000)});
}

TEST(DeviceCells, RefuseALargerBatch) {
  const DeviceCells cells{{1, kMaxDeviceBatch + 1, 2}, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr};
  EXPECT_THROW(device_cells_cuda(cells, nullptr, nullptr, nullptr, nullptr), std::invalid_argument);
}

}  // namespace
}  // namespace mnemo
