#pragma once

#include "core/batches.h"

#include <torch/types.h>

#include <span>
#include <vector>

namespace mnemo {

/// The cells of R replicas as tensors on the model's device. Replicas with fewer rows or cells than the longest are padded with
/// zero bits and with cells of weight 0 at (row 0, position 0).
struct Rows {
  torch::Tensor bits_RUL;    ///< uint8 [R, U, L] distinct sequences
  torch::Tensor cell_RN;     ///< int64 [R, N] row * (L-1) + position
  torch::Tensor weight_RN2;  ///< [R, N, 2] loss weights for next bit 0 and 1, in the model's type

  std::int64_t num_replicas() const { return bits_RUL.size(0); }
  std::int64_t num_rows() const { return bits_RUL.size(1); }
  std::int64_t length() const { return bits_RUL.size(2); }
};

/// One (cells, table) a replica; all of one length.
struct ReplicaCells {
  const Cells* cells;
  const SequenceTable* table;
};
Rows make_rows(std::span<const ReplicaCells> replicas, torch::Dtype dtype, torch::Device device);

}  // namespace mnemo
