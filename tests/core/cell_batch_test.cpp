#include "core/cell_batch.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

namespace mnemo {
namespace {

TEST(CellBatch, BitsTravelPackedAndArriveUnpacked) {
  for (const std::int64_t length : {2, 63, 64, 65, 130}) {
    const auto table = SequenceTable::random(4, 0, 9, length);
    const auto many = cells_of_batch(table, std::vector<std::int32_t>{8, 0, 3, 3, 5}), few = cells_of_batch(table, std::vector<std::int32_t>{7});
    const CellBatch rows({{&many, &table}, {&few, &table}}, torch::kFloat32, torch::kCPU);
    const auto& bits_RUL = rows.tensors().bits_RUL;
    ASSERT_EQ(bits_RUL.sizes().vec(), (std::vector<std::int64_t>{2, 4, length}));
    ASSERT_EQ(bits_RUL.scalar_type(), torch::kUInt8);
    for (std::int64_t u = 0; u < 4; ++u) {
      for (std::int64_t i = 0; i < length; ++i) {
        EXPECT_EQ(bits_RUL[0][u][i].item<int>(), table.bit(many.ranks[static_cast<std::size_t>(u)], i)) << length;
        EXPECT_EQ(bits_RUL[1][u][i].item<int>(), u == 0 && table.bit(7, i)) << length;  // padded with zeros
      }
    }
  }
}

}  // namespace
}  // namespace mnemo
