#include "models/memory_queue.h"

#include <stdexcept>

namespace mnemo {

void MemoryQueue::begin_phase(std::int64_t phase, const SequenceTable& table, bool clear) {
  if (clear) set_slots({});
  phases_.resize(static_cast<std::size_t>(phase));
  phases_.push_back(&table);
}

void MemoryQueue::push(std::span<const std::int32_t> ranks) {
  const auto phase = static_cast<std::int64_t>(phases_.size()) - 1;
  for (const auto rank : ranks) add(phase << 32 | rank);
}

void MemoryQueue::add(std::int64_t id) {
  distinct_.clear();
  slots_.push_back(id);
  ++count_[id];
  if (size() <= capacity_) return;
  const auto oldest = count_.find(slots_.front());
  slots_.pop_front();
  if (--oldest->second == 0) count_.erase(oldest);
}

std::span<const StoredSequence> MemoryQueue::distinct() const {
  if (distinct_.empty()) {
    for (const auto& [id, count] : count_) distinct_.push_back({table_of(id).row(rank_of(id)).data(), count});
  }
  return distinct_;
}

void MemoryQueue::set_slots(std::span<const std::int64_t> ids) {
  for (const auto id : ids) {
    if (id < 0 || rank_of(id) < 0 || rank_of(id) >= table_of(id).num_sequences()) throw std::out_of_range("[memory_queue] no such sequence");
  }
  slots_.clear();
  count_.clear();
  distinct_.clear();
  for (const auto id : ids) add(id);
}

std::vector<std::uint8_t> MemoryQueue::bits() const {
  const auto length = phases_.empty() ? 0 : static_cast<std::size_t>(phases_.back()->length());
  std::vector<std::uint8_t> bits(slots_.size() * length);
  auto* row = bits.data();
  for (const auto id : slots_) {
    const auto rank = rank_of(id);
    table_of(id).unpack({&rank, 1}, row);
    row += length;
  }
  return bits;
}

}  // namespace mnemo
