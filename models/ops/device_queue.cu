#include "models/ops/device_queue.h"

#include "core/warp.h"

namespace mnemo {

namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32;
constexpr int kIdsABlock = 8 * kThreads;

int blocks_of(const DeviceQueueShape& shape) { return (shape.ids + kIdsABlock - 1) / kIdsABlock; }

/// The sum over a block, for every thread of it; once in a kernel. Integers: any order gives the same.
__device__ inline int block_sum(int value) {
  MNEMO_SHARED(int[kWarps], warps);
  value = warp_sum(value);
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = value;
  __syncthreads();
  int sum = 0;
  for (const int part : warps) sum += part;
  return sum;
}

/// The last phase that begins at or before an id. Phases before the memory was cleared may have the same ids; they come earlier.
__device__ inline int phase_of(const DeviceQueue& q, int replica, int id) {
  int phase = q.phase_R[replica];
  while (phase > 0 && q.first_id_RF[replica * q.shape.phases + phase] > id) --phase;
  return phase;
}

/// Block (replica). A slot is written by one thread: of a batch longer than the queue only the end counts.
__global__ void __launch_bounds__(kThreads) queue_observe(DeviceQueue q, const std::int32_t* drawn_RB, const std::uint8_t* active_R) {
  const int replica = int(blockIdx.x), M = q.shape.capacity, B = q.shape.batch;
  if (!active_R[replica]) return;
  std::int32_t* const slots = q.slots_RM + std::size_t(replica) * M;
  std::int32_t* const count = q.count_RI + std::size_t(replica) * q.shape.ids;
  const int first_id = q.first_id_RF[replica * q.shape.phases + q.phase_R[replica]];
  const int next = q.next_R[replica], size = q.size_R[replica];
  for (int i = (B > M ? B - M : 0) + int(threadIdx.x); i < B; i += kThreads) {
    const int slot = (next + i) % M, id = first_id + drawn_RB[std::size_t(replica) * B + i];
    if (slot < size) atomicAdd(&count[slots[slot]], -1);
    slots[slot] = id;
    atomicAdd(&count[id], 1);
  }
  __syncthreads();  // all have read what is written now
  if (threadIdx.x != 0) return;
  q.next_R[replica] = (next + B) % M;
  q.size_R[replica] = min(M, size + B);
}

/// Block (part of I, replica): how many ids of the part are stored.
__global__ void __launch_bounds__(kThreads) queue_count(DeviceQueue q) {
  const std::int32_t* const count = q.count_RI + std::size_t(blockIdx.y) * q.shape.ids;
  const int first = int(blockIdx.x) * kIdsABlock;
  int stored = 0;
  for (int id = first + int(threadIdx.x); id < min(first + kIdsABlock, q.shape.ids); id += kThreads) stored += count[id] > 0;
  stored = block_sum(stored);
  if (threadIdx.x == 0) q.work[blockIdx.y * gridDim.x + blockIdx.x] = stored;
}

/// Block (part of I, replica): the stored ids of the part, behind those of earlier parts.
__global__ void __launch_bounds__(kThreads) queue_compact(DeviceQueue q, DeviceMemory memory) {
  const int replica = int(blockIdx.y), warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32, W = q.shape.words;
  const std::int32_t* const count = q.count_RI + std::size_t(replica) * q.shape.ids;
  const std::int32_t* const stored_of_part = q.work + replica * gridDim.x;
  MNEMO_SHARED(int[kWarps], stored_of_warp);
  int before = 0;
  for (unsigned part = threadIdx.x; part < blockIdx.x; part += kThreads) before += stored_of_part[part];
  before = block_sum(before);
  const int first = int(blockIdx.x) * kIdsABlock;
  for (int start = first; start < min(first + kIdsABlock, q.shape.ids); start += kThreads) {
    const int id = start + int(threadIdx.x), slots = id < q.shape.ids ? count[id] : 0;
    const unsigned stored = __ballot_sync(kAllLanes, slots > 0);
    __syncthreads();  // nobody reads the numbers of the round before any more
    if (lane == 0) stored_of_warp[warp] = __popc(stored);
    __syncthreads();
    int place = before + __popc(stored & ((1u << lane) - 1));
    for (int w = 0; w < kWarps; ++w) {
      if (w < warp) place += stored_of_warp[w];
      before += stored_of_warp[w];
    }
    if (slots == 0) continue;
    const int phase = phase_of(q, replica, id), at = replica * q.shape.phases + phase;
    const std::uint64_t* const words = q.tables_RF[at].words_KW + std::size_t(id - q.first_id_RF[at]) * W;
    const auto to = std::size_t(replica) * memory.capacity + place;
    for (int w = 0; w < W; ++w) memory.words_RDW[to * W + w] = words[w];
    memory.count_RD[to] = slots;
    memory.log_count_RD[to] = logf(float(slots));
  }
  if (blockIdx.x == gridDim.x - 1 && threadIdx.x == 0) memory.num_R[replica] = before;
}

/// Blocks over M.
__global__ void __launch_bounds__(kThreads) queue_read(DeviceQueue q, int replica, std::int64_t* slots_M) {
  const int i = int(blockIdx.x * kThreads + threadIdx.x), M = q.shape.capacity, size = q.size_R[replica];
  if (i >= M) return;
  std::int64_t slot = -1;
  if (i < size) {
    const int id = q.slots_RM[std::size_t(replica) * M + (size < M ? i : (q.next_R[replica] + i) % M)], phase = phase_of(q, replica, id);
    slot = std::int64_t{phase} << 32 | (id - q.first_id_RF[replica * q.shape.phases + phase]);
  }
  slots_M[i] = slot;
}

/// One block.
__global__ void __launch_bounds__(kThreads) queue_write(DeviceQueue q, int replica, const std::int64_t* slots_M) {
  const int M = q.shape.capacity;
  std::int32_t* const count = q.count_RI + std::size_t(replica) * q.shape.ids;
  for (int id = int(threadIdx.x); id < q.shape.ids; id += kThreads) count[id] = 0;
  __syncthreads();
  int size = 0;
  for (int i = int(threadIdx.x); slots_M && i < M; i += kThreads) {
    const std::int64_t slot = slots_M[i];
    if (slot < 0) break;
    const int id = q.first_id_RF[replica * q.shape.phases + int(slot >> 32)] + int(slot & 0x7fffffff);
    q.slots_RM[std::size_t(replica) * M + i] = id;
    atomicAdd(&count[id], 1);
    ++size;
  }
  size = block_sum(size);
  if (threadIdx.x == 0) q.next_R[replica] = size % M, q.size_R[replica] = size;
}

/// Blocks over K W (x), replica.
__global__ void __launch_bounds__(kThreads) table_stored(const DeviceTable* tables_R, int num_sequences, int words, DeviceMemory memory) {
  const int replica = int(blockIdx.y);
  const std::size_t i = std::size_t{blockIdx.x} * kThreads + threadIdx.x, first = std::size_t(replica) * memory.capacity;
  const std::uint64_t* const table = tables_R[replica].words_KW;
  if (i == 0) memory.num_R[replica] = table ? num_sequences : 0;
  if (!table || i >= std::size_t(num_sequences) * words) return;
  memory.words_RDW[first * words + i] = table[i];
  if (i % words == 0) memory.count_RD[first + i / words] = 1, memory.log_count_RD[first + i / words] = 0;
}

}  // namespace

std::size_t device_queue_work(const DeviceQueueShape& shape) { return std::size_t(shape.replicas) * blocks_of(shape); }

void device_queue_observe_cuda(const DeviceQueue& queue, const std::int32_t* drawn_RB, const std::uint8_t* active_R, void* stream) {
  simt::launch<queue_observe>(queue.shape.replicas, kThreads, 0, stream, queue, drawn_RB, active_R);
}

void device_queue_distinct_cuda(const DeviceQueue& queue, const DeviceMemory& memory, void* stream) {
  const dim3 grid(blocks_of(queue.shape), queue.shape.replicas);
  simt::launch<queue_count>(grid, kThreads, 0, stream, queue);
  simt::launch<queue_compact>(grid, kThreads, 0, stream, queue, memory);
}

void device_table_stored_cuda(const DeviceTable* tables_R, int replicas, int num_sequences, int words, const DeviceMemory& memory, void* stream) {
  const auto blocks = (std::size_t(num_sequences) * words + kThreads - 1) / kThreads;
  simt::launch<table_stored>(dim3(unsigned(blocks), unsigned(replicas)), kThreads, 0, stream, tables_R, num_sequences, words, memory);
}

void device_queue_read_cuda(const DeviceQueue& queue, int replica, std::int64_t* slots_M, void* stream) {
  simt::launch<queue_read>((queue.shape.capacity + kThreads - 1) / kThreads, kThreads, 0, stream, queue, replica, slots_M);
}

void device_queue_write_cuda(const DeviceQueue& queue, int replica, const std::int64_t* slots_M, void* stream) {
  simt::launch<queue_write>(1, kThreads, 0, stream, queue, replica, slots_M);
}

}  // namespace mnemo
