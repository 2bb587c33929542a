#pragma once

#include "core/batches.h"

#include <torch/types.h>

#include <optional>
#include <span>
#include <vector>

namespace mnemo {

/// The cells of one replica, and the table that their rows are ranks of. Both belong to the caller.
struct ReplicaCells {
  const Cells* cells;
  const SequenceTable* table;
};

/// The cells of R replicas as tensors. Replicas with fewer rows or cells than the longest are padded with zero bits and with
/// cells of weight 0 at (row 0, position 0).
struct CellTensors {
  torch::Tensor bits_RUL;    ///< uint8 [R, U, L] distinct sequences
  torch::Tensor cell_RN;     ///< int64 [R, N] row * P + position, of P predictions a row
  torch::Tensor weight_RN2;  ///< [R, N, 2] loss weights for next bit 0 and 1, in the model's type
};

/// What a model is asked to predict: the cells of R replicas, all of one length. On the host they are as core/batches made them; the first call of
/// tensors() copies them to the model's device.
class CellBatch {
 public:
  CellBatch(std::vector<ReplicaCells> replicas, torch::Dtype dtype, torch::Device device)
      : replicas_(std::move(replicas)), dtype_(dtype), device_(device) {}

  std::span<const ReplicaCells> replicas() const { return replicas_; }
  std::int64_t num_replicas() const { return static_cast<std::int64_t>(replicas_.size()); }
  std::int64_t num_rows() const;   ///< U, of the replica with most
  std::int64_t num_cells() const;  ///< N, of the replica with most
  std::int64_t length() const { return replicas_[0].table->length(); }
  std::int64_t first_predicted_bit() const { return replicas_[0].cells->first_predicted_bit; }
  std::int64_t num_positions() const { return replicas_[0].cells->num_positions(); }  ///< P
  const CellTensors& tensors() const;

 private:
  std::vector<ReplicaCells> replicas_;
  torch::Dtype dtype_;
  torch::Device device_;
  mutable std::optional<CellTensors> tensors_;
};

}  // namespace mnemo
