#include "models/memory_queue.h"

#include <torch/torch.h>

#include <algorithm>
#include <stdexcept>
#include <utility>

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

// ---- QueueMemory

QueueMemory::QueueMemory(std::int64_t num_replicas, std::int64_t capacity, std::int64_t length, torch::Device device)
    : length_(length), on_gpu_(device, num_replicas) {
  for (std::int64_t r = 0; r < num_replicas; ++r) replicas_.push_back(std::make_shared<Replica>(Replica{MemoryQueue(capacity), {}}));
}

QueueMemory QueueMemory::replica(std::int64_t r) const {
  auto one = *this;
  one.replicas_ = {replicas_[static_cast<std::size_t>(r)]};
  return one;
}

void QueueMemory::begin_phase(std::int64_t replica, std::int64_t phase, const SequenceTable& table, bool clear) {
  queue(replica).begin_phase(phase, table, clear);
}

void QueueMemory::observe(std::int64_t replica, std::span<const std::int32_t> drawn) {
  replicas_[static_cast<std::size_t>(replica)]->queue.push(drawn);
}

bool QueueMemory::upload(const DeviceBatch& batch) {
  std::vector<const MemoryQueue*> queues;
  std::vector<bool> changed;
  for (auto& replica : replicas_) {
    queues.push_back(&replica->queue);
    changed.push_back(std::exchange(replica->changed, false));
  }
  return on_gpu_.upload(queues, std::move(changed), batch.shape());
}

torch::Tensor QueueMemory::state(std::int64_t replica) const {
  const auto& own = queue(replica);
  const auto ids = own.slots();
  auto slots_1M = torch::full({1, own.capacity()}, -1, torch::kInt64);
  std::copy(ids.begin(), ids.end(), slots_1M.data_ptr<std::int64_t>());
  return slots_1M;
}

void QueueMemory::set_state(std::int64_t replica, const torch::Tensor& slots_1M) {
  const auto* ids = slots_1M.data_ptr<std::int64_t>();
  queue(replica).set_slots({ids, std::find(ids, ids + slots_1M.numel(), -1)});
}

torch::Tensor QueueMemory::bits(std::int64_t replica) const {
  const auto& own = queue(replica);
  auto bits = own.bits();
  return torch::from_blob(bits.data(), {own.size(), length_}, torch::kUInt8).clone();
}

void QueueMemory::set_bits(std::int64_t replica, const torch::Tensor& bits_mL) {
  if (bits_mL.size(0) == 0) return queue(replica).set_slots({});
  const auto bits = bits_mL.contiguous();
  auto& own = replicas_[static_cast<std::size_t>(replica)]->own;
  own = SequenceTable::from_array(view_of(bits.data_ptr<std::uint8_t>(), bits.sizes().vec()));
  std::vector<std::int32_t> slots(static_cast<std::size_t>(bits.size(0)));
  std::int32_t first = 0;  // of equal sequences, in lexicographic order
  for (std::size_t i = 0; i < slots.size(); ++i) {
    const auto rank = own->order()[i];
    if (i == 0 || own->common_prefix(first, rank) < own->length()) first = rank;
    slots[static_cast<std::size_t>(rank)] = first;
  }
  queue(replica).begin_phase(0, *own, /*clear=*/true);
  queue(replica).push(slots);
}

}  // namespace mnemo
