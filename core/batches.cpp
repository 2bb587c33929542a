#include "core/batches.h"

#include <algorithm>

namespace mnemo {

Cells cells_of_rows(const SequenceTable& table, std::vector<std::int32_t> distinct, std::span<const double> row_weight,
                    Sharing sharing) {
  Cells cells;
  cells.length = table.length();
  cells.ranks = std::move(distinct);
  const auto positions = static_cast<std::size_t>(table.length() - 1);
  cells.cell_of.resize(cells.ranks.size() * positions);
  for (std::size_t u = 0; u < cells.ranks.size(); ++u) {
    const auto rank = cells.ranks[u];
    const bool alone = u == 0 || sharing == Sharing::none;
    const auto shared = alone ? 0 : static_cast<std::size_t>(table.common_prefix(cells.ranks[u - 1], rank));
    for (std::size_t position = 0; position < positions; ++position) {
      const std::size_t prefix = position + 1;  // bits this prediction reads
      auto& cell = cells.cell_of[u * positions + position];
      if (prefix > shared) {
        cell = static_cast<std::int32_t>(cells.row.size());
        cells.row.push_back(static_cast<std::int32_t>(u));
        cells.position.push_back(static_cast<std::int32_t>(position));
        cells.weight.insert(cells.weight.end(), {0.0, 0.0});
      } else {
        cell = cells.cell_of[(u - 1) * positions + position];
      }
      const bool next = table.bit(rank, static_cast<std::int64_t>(position) + 1);
      cells.weight[2 * static_cast<std::size_t>(cell) + next] += row_weight[u] / static_cast<double>(positions);
    }
  }
  return cells;
}

Cells cells_of_batch(const SequenceTable& table, std::span<const std::int32_t> drawn, Sharing sharing) {
  std::vector<std::int32_t> rows(drawn.begin(), drawn.end());
  const double share = 1.0 / static_cast<double>(drawn.size());
  if (sharing == Sharing::none) {
    const std::vector<double> weight(rows.size(), share);
    return cells_of_rows(table, std::move(rows), weight, sharing);
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
  return cells_of_rows(table, std::move(distinct), weight, sharing);
}

}  // namespace mnemo
