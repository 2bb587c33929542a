#pragma once

#include "core/cell_batch.h"
#include "core/device_cells.h"
#include "core/zipf.h"

#include <torch/types.h>

#include <vector>

namespace mnemo {

/// The batches of R replicas as a GPU makes them, from draws to cells, so that a step needs nothing of the host and can be recorded: everything
/// stays in its place.
class DeviceBatch {
 public:
  /// `step_1`, int64 [1] on the device, is the number of the step that make() is for. `dtype` is that of loss weights. Throws std::invalid_argument
  /// for batches of more than kMaxDeviceBatch.
  DeviceBatch(const DeviceBatchShape& shape, torch::Tensor step_1, torch::Dtype dtype);

  void set_draws(std::int64_t replica, const DrawStream& draws);
  void set_table(std::int64_t replica, const SequenceTable& table);
  /// Queues the draws of the step and their cells, of replicas whose entry in `active_R` (uint8) is not 0.
  void make(const torch::Tensor& active_R);

  const DeviceBatchShape& shape() const { return cells_.shape; }
  std::int64_t num_sequences() const { return num_sequences_; }  ///< K, of each replica's table
  const DeviceCells& cells() const { return cells_; }
  /// [R, B] of the last make().
  const std::int32_t* drawn_RB() const { return drawn_RB_.const_data_ptr<std::int32_t>(); }
  /// [R] what each replica draws from.
  const DeviceTable* tables_R() const { return static_cast<const DeviceTable*>(tables_R_.const_data_ptr()); }
  /// The cells as a plain composition takes them, at full capacity: what lies past a replica's own has weight 0. Queues operations.
  CellTensors tensors() const;

 private:
  /// What a replica draws, and from what.
  struct Source {
    torch::Tensor words_KW, place_K, order_K, first_beyond, guide;
  };

  torch::Dtype dtype_;
  DeviceCells cells_{};
  torch::Tensor step_1_, drawn_RB_, seed_R_, laws_R_, tables_R_;                             // structs as bytes
  torch::Tensor num_rows_R_, first_RG_, bits_RBW_, rank_RB_, count_RB_, row_RN_, mass_RN2_;  // of cells_
  std::vector<Source> sources_;
  Stream stream_ = Stream::draws;
  std::int64_t num_sequences_ = 0;
};

}  // namespace mnemo
