#include "core/batches.h"

#include <algorithm>
#include <numeric>

namespace mnemo {

Cells cells_of_rows(const SequenceTable& table, std::vector<std::int32_t> distinct, std::span<const double> row_weight, Sharing sharing,
                    std::int64_t first_predicted_bit) {
  Cells cells;
  cells.length = table.length();
  cells.first_predicted_bit = first_predicted_bit;
  cells.ranks = std::move(distinct);
  cells.row_weight.assign(row_weight.begin(), row_weight.end());
  const auto rows = cells.ranks.size(), positions = static_cast<std::size_t>(cells.num_positions());

  // row u adds a cell at every position >= shared[u], where the prefix of position + first_predicted_bit bits differs from that of the row before
  std::vector<std::size_t> shared(rows, 0);
  for (std::size_t u = 1; u < rows && sharing == Sharing::prefixes; ++u) {
    const auto common = table.common_prefix(cells.ranks[u - 1], cells.ranks[u]);
    shared[u] = std::min(positions, static_cast<std::size_t>(common + 1 - first_predicted_bit));
  }
  const auto num_cells = rows * positions - std::accumulate(shared.begin(), shared.end(), std::size_t{0});
  cells.row.resize(num_cells);
  cells.position.resize(num_cells);
  cells.weight.resize(2 * num_cells);
  cells.cell_of.resize(rows * positions);

  std::vector<std::uint8_t> bits(static_cast<std::size_t>(cells.length));
  const auto* next = bits.data() + first_predicted_bit;  // what a position predicts
  std::size_t next_cell = 0;
  for (std::size_t u = 0; u < rows; ++u) {
    table.unpack({&cells.ranks[u], 1}, bits.data());
    const double weight = row_weight[u] / static_cast<double>(positions);
    auto* cell_of = cells.cell_of.data() + u * positions;
    for (std::size_t position = 0; position < shared[u]; ++position) {
      cell_of[position] = cell_of[position - positions];
      cells.weight[2 * static_cast<std::size_t>(cell_of[position]) + next[position]] += weight;
    }
    for (std::size_t position = shared[u]; position < positions; ++position, ++next_cell) {
      cell_of[position] = static_cast<std::int32_t>(next_cell);
      cells.row[next_cell] = static_cast<std::int32_t>(u);
      cells.position[next_cell] = static_cast<std::int32_t>(position);
      cells.weight[2 * next_cell + next[position]] = weight;
    }
  }
  return cells;
}

Cells cells_of_batch(const SequenceTable& table, std::span<const std::int32_t> drawn, Sharing sharing, std::int64_t first_predicted_bit) {
  std::vector<std::int32_t> rows(drawn.begin(), drawn.end());
  const double share = 1.0 / static_cast<double>(drawn.size());
  if (sharing == Sharing::none) {
    const std::vector<double> weight(rows.size(), share);
    return cells_of_rows(table, std::move(rows), weight, sharing, first_predicted_bit);
  }
  std::sort(rows.begin(), rows.end(), [&](auto a, auto b) { return table.place(a) < table.place(b); });
  std::vector<std::int32_t> distinct;
  std::vector<double> weight;
  for (std::size_t i = 0; i < rows.size();) {
    std::size_t end = i;
    while (end < rows.size() && rows[end] == rows[i]) ++end;
    distinct.push_back(rows[i]);
    weight.push_back(static_cast<double>(end - i) * share);
    i = end;
  }
  return cells_of_rows(table, std::move(distinct), weight, sharing, first_predicted_bit);
}

}  // namespace mnemo
