#pragma once

#include "core/sequences.h"
#include "models/model.h"
#include "models/queue_on_gpu.h"
#include "models/ops/dam_retrieval.h"

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <vector>

namespace mnemo {

/// The queue of an associative memory: the last M drawn sequences, first in, first out, duplicates and all; and the distinct ones among them
/// with their counts. A slot holds an id, phase << 32 | rank, over all sequences ever used, so that a queue may outlive a switch.
class MemoryQueue {
 public:
  explicit MemoryQueue(std::int64_t capacity) : capacity_(capacity) {}

  /// From now on ranks refer to `table`, of phase 0 or of the one after the last. The table must outlive the slots that refer to it.
  void begin_phase(std::int64_t phase, const SequenceTable& table, bool clear);
  /// Adds slots of the current phase and drops the oldest beyond the capacity.
  void push(std::span<const std::int32_t> ranks);

  std::int64_t capacity() const { return capacity_; }
  std::int64_t size() const { return static_cast<std::int64_t>(slots_.size()); }
  /// By phase and rank, so that the order of summation does not depend on that of arrival. Valid until the queue changes.
  std::span<const StoredSequence> distinct() const;
  /// The tables that ranks have referred to so far, phase by phase.
  const std::vector<const SequenceTable*>& phases() const { return phases_; }
  /// Ids, the oldest first.
  std::vector<std::int64_t> slots() const { return {slots_.begin(), slots_.end()}; }
  /// Throws std::out_of_range for an id of no phase or rank.
  void set_slots(std::span<const std::int64_t> ids);
  /// The sequences of all slots, the oldest first: [m, L].
  std::vector<std::uint8_t> bits() const;

 private:
  const SequenceTable& table_of(std::int64_t id) const { return *phases_.at(static_cast<std::size_t>(id >> 32)); }
  static std::int32_t rank_of(std::int64_t id) { return static_cast<std::int32_t>(id & 0xffffffff); }
  void add(std::int64_t id);

  std::int64_t capacity_;
  std::vector<const SequenceTable*> phases_;
  std::deque<std::int64_t> slots_;
  std::map<std::int64_t, std::int64_t> count_;
  mutable std::vector<StoredSequence> distinct_;  // empty: to be rebuilt
};

/// A queue for each replica of an associative memory; once upload() was called, with a copy of them on a GPU.
class QueueMemory : public Memory {
 public:
  QueueMemory(std::int64_t num_replicas, std::int64_t capacity, std::int64_t length, torch::Device device);

  /// Shares the queue of one replica.
  QueueMemory replica(std::int64_t r) const;
  const MemoryQueue& queue(std::int64_t replica) const { return replicas_[static_cast<std::size_t>(replica)]->queue; }

  void begin_phase(std::int64_t replica, std::int64_t phase, const SequenceTable& table, bool clear) override;
  bool empty(std::int64_t replica) const override { return queue(replica).size() == 0; }
  void observe(std::int64_t replica, std::span<const std::int32_t> drawn) override;
  /// Ids of the slots, the oldest first, then -1: [1, M].
  torch::Tensor state(std::int64_t replica) const override;
  void set_state(std::int64_t replica, const torch::Tensor& slots_1M) override;
  torch::Tensor bits(std::int64_t replica) const override;
  void set_bits(std::int64_t replica, const torch::Tensor& bits_mL) override;

  bool upload(const DeviceBatch& batch) override;
  void observe_on_gpu(const DeviceBatch& batch, const torch::Tensor& active_R) override { on_gpu_.observe(batch, active_R); }
  QueueOnGpu& on_gpu() { return on_gpu_; }

 private:
  struct Replica {
    MemoryQueue queue;
    std::optional<SequenceTable> own;  // of set_bits()
    bool changed = true;               // other than by observe(), since it was copied to the GPU
  };
  /// To be changed.
  MemoryQueue& queue(std::int64_t replica) {
    replicas_[static_cast<std::size_t>(replica)]->changed = true;
    return replicas_[static_cast<std::size_t>(replica)]->queue;
  }

  std::int64_t length_;
  std::vector<std::shared_ptr<Replica>> replicas_;
  QueueOnGpu on_gpu_;
};

}  // namespace mnemo
