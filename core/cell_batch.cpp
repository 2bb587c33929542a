#include "core/cell_batch.h"

#include "core/device_batch.h"
#include "core/packed_bits.h"

#include <torch/torch.h>

#include <algorithm>

namespace mnemo {

CellBatch::CellBatch(std::vector<ReplicaCells> replicas, torch::Dtype dtype, torch::Device device)
    : replicas_(std::move(replicas)),
      num_replicas_(std::ssize(replicas_)),
      length_(replicas_[0].table->length()),
      first_predicted_bit_(replicas_[0].cells->first_predicted_bit),
      dtype_(dtype),
      device_(device) {}

CellBatch::CellBatch(const DeviceBatch& on_gpu)
    : on_gpu_(&on_gpu),
      num_replicas_(on_gpu.shape().replicas),
      length_(on_gpu.shape().length),
      first_predicted_bit_(on_gpu.shape().first_predicted_bit) {}

std::int64_t CellBatch::num_rows() const {
  std::int64_t most = on_gpu_ != nullptr ? on_gpu_->shape().batch : 0;
  for (const auto& replica : replicas_) most = std::max(most, replica.cells->num_rows());
  return most;
}

std::int64_t CellBatch::num_cells() const {
  std::int64_t most = on_gpu_ != nullptr ? on_gpu_->shape().capacity() : 0;
  for (const auto& replica : replicas_) most = std::max(most, replica.cells->num_cells());
  return most;
}

const CellTensors& CellBatch::tensors() const {
  if (!tensors_) tensors_ = on_gpu_ != nullptr ? on_gpu_->tensors() : upload();
  return *tensors_;
}

CellTensors CellBatch::upload() const {
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
  return {unpack_bits(words.to(device_, /*non_blocking=*/true), length()), cell.to(device_, true), weight.to(device_, true)};
}

}  // namespace mnemo
