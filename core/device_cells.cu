#include "core/device_cells.h"
#include "core/warp.h"

#include <algorithm>
#include <stdexcept>
#include <string>

// Rows and counts by one block a replica, cells by a warp a position. U rows, in shared memory known by the place where their draws start once all
// draws are sorted, and by the first position at which they have a cell of their own: earlier ones they share with the row before.

namespace mnemo {

namespace {

constexpr int kMostThreads = 1024;
constexpr int kNoPlace = 0x7fffffff;  // sorted behind every place

__device__ int thread() { return static_cast<int>(threadIdx.x); }
__device__ int threads() { return static_cast<int>(blockDim.x); }
__device__ int lane() { return thread() % 32; }
__device__ unsigned lanes_below() { return (1u << lane()) - 1; }

/// Sorts key[0, size), size a power of two.
__device__ void sort(int* key, int size) {
  for (int run = 2; run <= size; run *= 2) {
    for (int apart = run / 2; apart > 0; apart /= 2) {
      __syncthreads();
      for (int pair = thread(); pair < size / 2; pair += threads()) {
        const int low = 2 * pair - pair % apart, high = low + apart;
        const bool upwards = (low & run) == 0;
        const int a = key[low], b = key[high];
        if ((a > b) == upwards) key[low] = b, key[high] = a;
      }
    }
  }
  __syncthreads();
}

/// For every i < size with is_first(i), in order: take(its number, i). Returns how many there are.
template <class IsFirst, class Take>
__device__ int number_of(int size, const IsFirst& is_first, const Take& take) {
  MNEMO_SHARED(int[kMostThreads / 32], of_warp);
  int before = 0;
  for (int base = 0; base < size; base += threads()) {
    const int i = base + thread();
    const bool first = i < size && is_first(i);
    const unsigned firsts = __ballot_sync(kAllLanes, first);
    if (lane() == 0) of_warp[thread() / 32] = __popc(firsts);
    __syncthreads();
    int mine = before + __popc(firsts & lanes_below());
    for (int warp = 0; warp < threads() / 32; ++warp) {
      if (warp < thread() / 32) mine += of_warp[warp];
      before += of_warp[warp];
    }
    if (first) take(mine, i);
    __syncthreads();  // before the next round writes of_warp
  }
  return before;
}

__device__ int common_prefix(const std::uint64_t* a, const std::uint64_t* b, int words, int length) {
  for (int w = 0; w < words; ++w) {
    if (a[w] != b[w]) return 64 * w + __clzll(static_cast<long long>(a[w] ^ b[w]));
  }
  return length;
}

/// values[0, size) become their running sums. One warp.
__device__ void sum_up(std::int32_t* values, int size) {
  int before = 0;
  for (int base = 0; base < size; base += 32) {
    const int i = base + lane();
    int sum = i < size ? values[i] : 0;
    for (unsigned by = 1; by < 32; by *= 2) {
      const int other = __shfl_up_sync(kAllLanes, sum, by);
      if (lane() >= static_cast<int>(by)) sum += other;
    }
    if (i < size) values[i] = before + sum;
    before += __shfl_sync(kAllLanes, sum, 31);
  }
}

/// The first position at which each row of a replica has a cell of its own. Barriers are the caller's.
__device__ void find_first_cells(const DeviceCells& c, std::size_t replica, int rows, int* first_cell) {
  const int words = c.shape.words();
  const std::uint64_t* const bits_BW = c.bits_RBW + replica * c.shape.batch * words;
  for (int row = thread(); row < rows; row += threads()) {
    const auto* const mine = bits_BW + static_cast<std::size_t>(row) * words;
    first_cell[row] = row == 0 ? 0 : common_prefix(mine - words, mine, words, c.shape.length) + 1 - c.shape.first_predicted_bit;
  }
}

/// The rows of a replica and their cells. Its functions are for whole warps.
struct Rows {
  int first_predicted_bit, words, count, draws;
  const std::uint64_t* bits_UW;
  const int *start, *first_cell;  // the first is not needed to count cells

  __device__ Rows(const DeviceCells& c, std::size_t replica, int rows, const int* starts, const int* first_cells)
      : first_predicted_bit(c.shape.first_predicted_bit),
        words(c.shape.words()),
        count(rows),
        draws(c.shape.batch),
        bits_UW(c.bits_RBW + replica * c.shape.batch * c.shape.words()),
        start(starts),
        first_cell(first_cells) {}
  __device__ bool bit(int row, int i) const { return bits_UW[static_cast<std::size_t>(row) * words + i / 64] >> (63 - i % 64) & 1; }

  /// The lanes whose rows, from `base` on, have a cell of a position, by the last visible bit.
  struct Lanes {
    unsigned zero, one;
  };
  __device__ Lanes cells_at(int position, int base) const {
    const int row = base + lane(), last_visible = position + first_predicted_bit - 1;
    const bool cell = row < count && first_cell[row] <= position, one = cell && last_visible >= 0 && bit(row, last_visible);
    return {__ballot_sync(kAllLanes, cell && !one), __ballot_sync(kAllLanes, one)};
  }

  /// How many cells the two groups of a position have.
  __device__ void count_cells(int position, std::int32_t* count_2) const {
    int zeros = 0, ones = 0;
    for (int base = 0; base < count; base += 32) {
      const auto cells = cells_at(position, base);
      zeros += __popc(cells.zero), ones += __popc(cells.one);
    }
    if (lane() == 0) count_2[0] = zeros, count_2[1] = ones;
  }

  /// Writes the cells of a position, last to first, up to where its groups end. A cell's draws reach to where those of the next cell start. Those of
  /// them that go on with 1 start, if some go on with 0, at the row whose own cells begin at the next position: what it does not share is this bit.
  __device__ void write_cells(int position, std::int32_t end0, std::int32_t end1, std::int32_t* row_N, std::int32_t* mass_N2) const {
    int next_start = draws, next_turn = -1;  // of the next cell; of the row where the draws before it turn from 0 to 1, -1: none so far
    for (int base = (count - 1) / 32 * 32; base >= 0; base -= 32) {
      const int row = base + lane();
      const auto groups = cells_at(position, base);
      const unsigned cells = groups.zero | groups.one, turns = __ballot_sync(kAllLanes, row < count && first_cell[row] == position + 1);
      const auto start_of_lowest = [&](unsigned lanes, int otherwise) {
        return lanes != 0 ? start[base + __ffs(static_cast<int>(lanes)) - 1] : otherwise;
      };
      if (cells >> lane() & 1) {
        const unsigned above = kAllLanes << lane() << 1, next = cells & above,
                       up_to_next = (next & -next) - 1;  // all above where there is no next one
        const int begin = start[row], end = start_of_lowest(next, next_start),
                  turn = start_of_lowest(turns & above & up_to_next, next != 0 ? -1 : next_turn);
        const bool one = groups.one >> lane() & 1;
        const auto cell = static_cast<std::size_t>((one ? end1 : end0) - __popc((one ? groups.one : groups.zero) & kAllLanes << lane()));
        const int ones = turn >= 0 ? end - turn : bit(row, position + first_predicted_bit) ? end - begin : 0;
        row_N[cell] = row;
        mass_N2[2 * cell] = end - begin - ones, mass_N2[2 * cell + 1] = ones;
      }
      end0 -= __popc(groups.zero), end1 -= __popc(groups.one);
      next_turn = start_of_lowest(cells != 0 ? turns & ((cells & -cells) - 1) : turns, cells != 0 ? -1 : next_turn);
      next_start = start_of_lowest(cells, next_start);
    }
  }
};

/// Everything but the cells themselves. Grid (R).
__global__ void __launch_bounds__(kMostThreads)
    device_rows_kernel(DeviceCells c, int size, const std::int32_t* drawn_RB, const DeviceTable* tables_R, const std::uint8_t* active_R) {
  MNEMO_SHARED(int[kMaxDeviceBatch], place);
  MNEMO_SHARED(int[kMaxDeviceBatch + 1], start);
  const std::size_t replica = blockIdx.x;
  const int batch = c.shape.batch, words = c.shape.words(), groups = c.shape.groups(), positions = c.shape.positions();
  std::int32_t* const first_G = c.first_RG + replica * (groups + 1);
  if (!active_R[replica]) {
    for (int g = thread(); g <= groups; g += threads()) first_G[g] = 0;
    if (thread() == 0) c.num_rows_R[replica] = 0;
    return;
  }
  const auto table = tables_R[replica];
  for (int i = thread(); i < size; i += threads()) place[i] = i < batch ? table.place_K[drawn_RB[replica * batch + i]] : kNoPlace;
  sort(place, size);

  std::int32_t* const rank_B = c.rank_RB + replica * batch;
  const auto is_first = [&](int i) { return i == 0 || place[i] != place[i - 1]; };
  const int rows = number_of(batch, is_first, [&](int row, int i) { start[row] = i, rank_B[row] = table.order_K[place[i]]; });
  if (thread() == 0) start[rows] = batch, c.num_rows_R[replica] = rows, first_G[0] = 0;
  __syncthreads();

  std::uint64_t* const bits_BW = c.bits_RBW + replica * batch * words;
  for (int row = thread(); row < rows; row += threads()) {
    const auto* const mine = table.words_KW + static_cast<std::size_t>(rank_B[row]) * words;
    for (int w = 0; w < words; ++w) bits_BW[static_cast<std::size_t>(row) * words + w] = mine[w];
    c.count_RB[replica * batch + row] = start[row + 1] - start[row];
  }
  __syncthreads();
  int* const first_cell = place;  // which is no longer needed
  find_first_cells(c, replica, rows, first_cell);
  __syncthreads();

  const Rows all(c, replica, rows, start, first_cell);
  const int warp = thread() / 32, warps = threads() / 32;
  for (int position = warp; position < positions; position += warps) all.count_cells(position, first_G + 1 + 2 * position);
  __syncthreads();
  if (warp == 0) sum_up(first_G + 1, groups);
}

constexpr int kWritingWarps = 8;

/// The cells, after device_rows_kernel. Grid (positions by kWritingWarps, R).
__global__ void __launch_bounds__(32 * kWritingWarps) device_cells_kernel(DeviceCells c) {
  MNEMO_SHARED(int[kMaxDeviceBatch + 1], start);
  MNEMO_SHARED(int[kMaxDeviceBatch], first_cell);
  const std::size_t replica = blockIdx.y;
  const int rows = c.num_rows_R[replica], warp = thread() / 32, position = static_cast<int>(blockIdx.x) * kWritingWarps + warp;
  if (rows == 0) return;
  for (int row = thread(); row < rows; row += threads()) start[row + 1] = c.count_RB[replica * c.shape.batch + row];
  find_first_cells(c, replica, rows, first_cell);
  if (thread() == 0) start[0] = 0;
  __syncthreads();
  if (warp == 0) sum_up(start + 1, rows);
  __syncthreads();
  if (position >= c.shape.positions()) return;
  const std::int32_t* const end_G = c.first_RG + replica * (c.shape.groups() + 1) + 1;
  const auto first = replica * c.shape.capacity();
  Rows(c, replica, rows, start, first_cell)
      .write_cells(position, end_G[2 * position], end_G[2 * position + 1], c.row_RN + first, c.mass_RN2 + 2 * first);
}

}  // namespace

void device_cells_cuda(const DeviceCells& cells, const std::int32_t* drawn_RB, const DeviceTable* tables_R, const std::uint8_t* active_R,
                       void* stream) {
  const int batch = cells.shape.batch;
  if (batch < 1 || batch > kMaxDeviceBatch) {
    throw std::invalid_argument("[device_cells] a batch must have 1 to " + std::to_string(kMaxDeviceBatch) + " rows, got " + std::to_string(batch));
  }
  int size = 1;
  while (size < batch) size *= 2;
  const int positions = cells.shape.positions(), threads = std::clamp(std::max(size, 32 * positions), 32, kMostThreads);  // a warp a position
  const auto replicas = static_cast<unsigned>(cells.shape.replicas);
  simt::launch<device_rows_kernel>(replicas, static_cast<unsigned>(threads), 0, stream, cells, size, drawn_RB, tables_R, active_R);
  simt::launch<device_cells_kernel>(dim3(static_cast<unsigned>((positions + kWritingWarps - 1) / kWritingWarps), replicas), 32 * kWritingWarps, 0,
                                    stream, cells);
}

}  // namespace mnemo
