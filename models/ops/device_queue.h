#pragma once

// The queue of models/memory_queue.h on a GPU: nothing in it depends on the host. No torch header, C++17: nvcc compiles this too.

#include "core/device_cells.h"

#include <cstddef>
#include <cstdint>

namespace mnemo {

/// The distinct stored sequences of each replica, with counts.
struct DeviceMemory {
  int capacity;              ///< D, the most that there can be
  std::int32_t* num_R;       ///< how many there are
  std::uint64_t* words_RDW;  ///< packed as in SequenceTable
  std::int32_t* count_RD;    ///< slots that hold each
  float* log_count_RD;       ///< ln of that
};

/// Sizes: M slots for each of R replicas, B pushed a step, W words a sequence, F phases. A slot holds an *id* < I, the place of a sequence among
/// those of all phases since the memory was last cleared, one phase after the other.
struct DeviceQueueShape {
  int replicas, capacity, ids, phases, words, batch;

  MNEMO_HOST_DEVICE int distinct() const { return capacity < ids ? capacity : ids; }  ///< D
};

/// Arrays in device memory. The host writes the first three at a phase's begin: a phase that clears the memory (device_queue_write()) has a first id
/// of 0, another the one after the last id of the phase before.
struct DeviceQueue {
  DeviceQueueShape shape;
  const DeviceTable* tables_RF;     ///< [R, F] sequences of each phase so far
  const std::int32_t* first_id_RF;  ///< [R, F] id of rank 0 of each phase so far
  const std::int32_t* phase_R;      ///< the current phase
  std::int32_t* slots_RM;           ///< [R, M] ring of ids
  std::int32_t* next_R;             ///< the slot to be filled next: once all are filled, the oldest
  std::int32_t* size_R;             ///< slots filled
  std::int32_t* count_RI;           ///< [R, I] slots that hold each id
  std::int32_t* work;               ///< device_queue_work() integers
};
std::size_t device_queue_work(const DeviceQueueShape& shape);

/// Pushes the drawn ranks [R, B] of the current phase, in order, for each replica with active_R != 0; the oldest leave. One launch.
void device_queue_observe_cuda(const DeviceQueue& queue, const std::int32_t* drawn_RB, const std::uint8_t* active_R, void* stream);

/// The distinct stored sequences by id (that is by phase and rank, as MemoryQueue::distinct()), with counts. Two launches.
void device_queue_distinct_cuda(const DeviceQueue& queue, const DeviceMemory& memory, void* stream);

/// All K sequences that each replica draws from, rank by rank, with counts of 1, as retrieval looks them up: none of a replica without a table. One
/// launch.
void device_table_stored_cuda(const DeviceTable* tables_R, int replicas, int num_sequences, int words, const DeviceMemory& memory, void* stream);

/// The slots of a replica as in a checkpoint: phase << 32 | rank, the oldest first, then -1: [M], in device memory.
void device_queue_read_cuda(const DeviceQueue& queue, int replica, std::int64_t* slots_M, void* stream);
/// Sets them; null clears the queue. The ids are not checked.
void device_queue_write_cuda(const DeviceQueue& queue, int replica, const std::int64_t* slots_M, void* stream);

}  // namespace mnemo
