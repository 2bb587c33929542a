#pragma once

#include "core/sequences.h"
#include "models/ops/dam_retrieval.h"

#include <cstdint>
#include <deque>
#include <map>
#include <span>
#include <vector>

namespace mnemo {

/// The queue of an associative memory: the last M drawn sequences, first in, first out, duplicates and all; and the distinct ones among them
/// with their counts. A slot holds an id, phase << 32 | rank, over all sequences ever used, so that a queue may outlive a switch.
class MemoryQueue {
 public:
  explicit MemoryQueue(std::int64_t capacity) : capacity_(capacity) {}

  /// Ranks are those of `table` from now on, phase number `phase`: the first, or one more than the last. It must outlive the slots that name it.
  void begin_phase(std::int64_t phase, const SequenceTable& table, bool clear);
  /// Adds slots of the current phase; the oldest beyond the capacity go.
  void push(std::span<const std::int32_t> ranks);

  std::int64_t capacity() const { return capacity_; }
  std::int64_t size() const { return static_cast<std::int64_t>(slots_.size()); }
  /// By phase and rank, whatever the order they came in: it sets the order of summation. Valid until the queue changes.
  std::span<const StoredSequence> distinct() const;
  /// Ids, the oldest first.
  std::vector<std::int64_t> slots() const { return {slots_.begin(), slots_.end()}; }
  /// Throws std::out_of_range for an id of no phase or rank.
  void set_slots(std::span<const std::int64_t> ids);
  /// Of every slot, the oldest first: [m, L].
  std::vector<std::uint8_t> bits() const;

 private:
  const SequenceTable& table_of(std::int64_t id) const { return *phases_.at(static_cast<std::size_t>(id >> 32)); }
  static std::int32_t rank_of(std::int64_t id) { return static_cast<std::int32_t>(id & 0xffffffff); }
  void add(std::int64_t id);

  std::int64_t capacity_;
  std::vector<const SequenceTable*> phases_;
  std::deque<std::int64_t> slots_;
  std::map<std::int64_t, std::int64_t> count_;
  mutable std::vector<StoredSequence> distinct_;  // empty: to be made anew
};

}  // namespace mnemo
