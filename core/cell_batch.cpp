#include "core/cell_batch.h"

#include "core/packed_bits.h"

#include <torch/torch.h>

#include <algorithm>

namespace mnemo {

std::int64_t CellBatch::num_rows() const {
  std::int64_t most = 0;
  for (const auto& replica : replicas_) most = std::max(most, replica.cells->num_rows());
  return most;
}

std::int64_t CellBatch::num_cells() const {
  std::int64_t most = 0;
  for (const auto& replica : replicas_) most = std::max(most, replica.cells->num_cells());
  return most;
}

const CellTensors& CellBatch::tensors() const {
  if (tensors_) return *tensors_;
  const auto R = num_replicas(), U = num_rows(), N = num_cells(), W = std::ssize(replicas_[0].table->row(0));
  // pinned memory lets the copy to a GPU overlap with its work
  const auto host = torch::TensorOptions().pinned_memory(!device_.is_cpu());
  auto words = torch::zeros({R, U, W}, host.dtype(torch::kInt64));
  auto cell = torch::zeros({R, N}, host.dtype(torch::kInt64));
  auto weight = torch::zeros({R, N, 2}, host.dtype(dtype_));  // as the model wants it: a conversion here would make a copy that is not pinned
  for (std::int64_t r = 0; r < R; ++r) {
    const auto& [cells, table] = replicas_[static_cast<std::size_t>(r)];
    auto* row = words.data_ptr<std::int64_t>() + r * U * W;
    for (const auto rank : cells->ranks) row = std::copy_n(table->row(rank).begin(), W, row);
    auto* target = cell.data_ptr<std::int64_t>() + r * N;
    for (std::size_t n = 0; n < cells->row.size(); ++n) target[n] = cells->row[n] * num_positions() + cells->position[n];
    AT_DISPATCH_FLOATING_TYPES(dtype_, "weight",
                               [&] { std::copy(cells->weight.begin(), cells->weight.end(), weight.data_ptr<scalar_t>() + r * N * 2); });
  }
  tensors_ = {unpack_bits(words.to(device_, /*non_blocking=*/true), length()), cell.to(device_, true), weight.to(device_, true)};
  return *tensors_;
}

}  // namespace mnemo
