#include "core/rows.h"

#include <torch/torch.h>

#include <algorithm>

namespace mnemo {

Rows make_rows(std::span<const ReplicaCells> replicas, torch::Dtype dtype, torch::Device device) {
  const auto num_replicas = static_cast<std::int64_t>(replicas.size());
  const auto length = replicas[0].table->length();
  std::int64_t num_rows = 0, num_cells = 0;
  for (const auto& replica : replicas) {
    num_rows = std::max(num_rows, replica.cells->num_rows());
    num_cells = std::max(num_cells, replica.cells->num_cells());
  }
  // pinned memory lets the copy to a GPU overlap with its work
  const auto host = torch::TensorOptions().pinned_memory(device.is_cuda());
  auto bits = torch::zeros({num_replicas, num_rows, length}, host.dtype(torch::kUInt8));
  auto cell = torch::zeros({num_replicas, num_cells}, host.dtype(torch::kInt64));
  auto weight = torch::zeros({num_replicas, num_cells, 2}, host.dtype(torch::kFloat64));
  for (std::int64_t r = 0; r < num_replicas; ++r) {
    const auto& [cells, table] = replicas[static_cast<std::size_t>(r)];
    table->unpack(cells->ranks, bits.data_ptr<std::uint8_t>() + r * num_rows * length);
    auto* target = cell.data_ptr<std::int64_t>() + r * num_cells;
    for (std::size_t n = 0; n < cells->row.size(); ++n) target[n] = cells->row[n] * (length - 1) + cells->position[n];
    std::copy(cells->weight.begin(), cells->weight.end(), weight.data_ptr<double>() + r * num_cells * 2);
  }
  return {bits.to(device, /*non_blocking=*/true), cell.to(device, true), weight.to(dtype).to(device, true)};
}

}  // namespace mnemo
