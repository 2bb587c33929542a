#pragma once

#include "core/device_batch.h"
#include "models/ops/device_queue.h"

#include <torch/types.h>

#include <optional>
#include <vector>

namespace mnemo {

class MemoryQueue;

/// The stored sequences of R replicas on a GPU, as an associative memory looks them up.
class StoredOnGpu {
 public:
  /// Room for `capacity` distinct sequences of each replica.
  StoredOnGpu(std::int64_t num_replicas, std::int64_t capacity, const DeviceBatchShape& batch, torch::Device device);
  const DeviceMemory& view() const { return view_; }

 private:
  torch::Tensor num_R_, words_RDW_, count_RD_, log_count_RD_;
  DeviceMemory view_{};
};

/// Copies of the queues of R replicas on a GPU (models/ops/device_queue.h), which observe what is drawn there.
class QueueOnGpu {
 public:
  QueueOnGpu(torch::Device device, std::int64_t num_replicas) : device_(device), tables_(static_cast<std::size_t>(num_replicas)) {}

  /// Copies the queues of replicas whose flag in `changed` is set. True if the copies lie elsewhere from now on. Waits if there was something to
  /// copy.
  bool upload(const std::vector<const MemoryQueue*>& queues, std::vector<bool> changed, const DeviceBatchShape& batch);
  /// Queues the push of a batch.
  void observe(const DeviceBatch& batch, const torch::Tensor& active_R);
  /// Queues the look-up of the distinct stored sequences with their counts.
  const DeviceMemory& distinct();

 private:
  /// Makes room for all sequences of all phases.
  void make_room(const DeviceQueueShape& shape, const DeviceBatchShape& batch);

  torch::Device device_;
  DeviceQueue queue_{};
  torch::Tensor tables_RF_, first_id_RF_, phase_R_, slots_RM_, next_R_, size_R_, count_RI_, work_;  // of queue_
  std::vector<std::vector<torch::Tensor>> tables_;                                                  // words that tables_RF_ points to, by replica
  std::optional<StoredOnGpu> stored_;                                                               // once there is room
};

}  // namespace mnemo
