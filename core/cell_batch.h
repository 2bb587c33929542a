#pragma once

#include "core/batches.h"

#include <torch/types.h>

#include <optional>
#include <span>
#include <vector>

namespace mnemo {

class DeviceBatch;

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
/// tensors() copies them to the model's device. In a recorded step a GPU makes them, and the host knows no more of them than their capacity.
class CellBatch {
 public:
  CellBatch(std::vector<ReplicaCells> replicas, torch::Dtype dtype, torch::Device device);
  explicit CellBatch(const DeviceBatch& on_gpu);

  std::span<const ReplicaCells> replicas() const { return replicas_; }  ///< none where a GPU made them
  const DeviceBatch* on_gpu() const { return on_gpu_; }                 ///< null where the host did
  std::int64_t num_replicas() const { return num_replicas_; }
  std::int64_t num_rows() const;   ///< U, of the replica with most
  std::int64_t num_cells() const;  ///< N, of the replica with most
  std::int64_t length() const { return length_; }
  std::int64_t first_predicted_bit() const { return first_predicted_bit_; }
  std::int64_t num_positions() const { return length_ - first_predicted_bit_; }  ///< P
  const CellTensors& tensors() const;

 private:
  CellTensors upload() const;

  std::vector<ReplicaCells> replicas_;
  const DeviceBatch* on_gpu_ = nullptr;
  std::int64_t num_replicas_, length_, first_predicted_bit_;
  torch::Dtype dtype_ = torch::kFloat32;
  torch::Device device_ = torch::kCPU;
  mutable std::optional<CellTensors> tensors_;
};

}  // namespace mnemo
