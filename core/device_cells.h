#pragma once

// The cells of core/batches.h as they lie on a GPU. No torch header, C++17: nvcc compiles this too.

#include "core/adam_math.h"

#include <cstddef>
#include <cstdint>

namespace mnemo {

/// The sequences that a replica draws from, as a SequenceTable has them: words [K, W], most significant bit first; the place of each rank in
/// lexicographic order, and the rank at each place.
struct DeviceTable {
  const std::uint64_t* words_KW = nullptr;
  const std::int32_t* place_K = nullptr;
  const std::int32_t* order_K = nullptr;
};

/// Sizes of a batch: R replicas draw B sequences of L bits each. All arrays have the capacity of a batch without repeats; true counts lie in memory.
struct DeviceBatchShape {
  int replicas, batch, length;
  int first_predicted_bit = 1;

  MNEMO_HOST_DEVICE int words() const { return (length + 63) / 64; }                ///< W
  MNEMO_HOST_DEVICE int positions() const { return length - first_predicted_bit; }  ///< P
  MNEMO_HOST_DEVICE int capacity() const { return batch * positions(); }            ///< N, the most cells that there can be
  MNEMO_HOST_DEVICE int groups() const { return 2 * positions(); }                  ///< G
};

/// The distinct rows and cells of a batch (MATHS 2.2). A cell of position c predicts bit c + first_predicted_bit of its row. Cells are ordered by
/// *group*, then row: group 2 c + a holds the cells of position c whose last visible bit, c + first_predicted_bit - 1, is a (0 where no bit is
/// visible), so that all cells of a group look up the same table rows. A replica that takes no part has no rows and no cells.
struct DeviceCells {
  DeviceBatchShape shape;
  std::int32_t* num_rows_R;  ///< U of each replica
  std::int32_t* first_RG;    ///< [R, G + 1] first cell of each group; the last entry is the number of cells
  std::uint64_t* bits_RBW;   ///< [R, B, W] distinct rows in lexicographic order, packed as in SequenceTable
  std::int32_t* rank_RB;     ///< [R, B] their ranks
  std::int32_t* count_RB;    ///< [R, B] how often each was drawn
  std::int32_t* row_RN;      ///< [R, N] row of each cell
  std::int32_t* mass_RN2;    ///< [R, N, 2] draws that start with the cell's prefix and go on with 0 and with 1; a loss weight is mass / (B P)
};

/// Fills `cells` from drawn ranks [R, B] (device memory), by two kernels. `tables_R` and `active_R` (0: takes no part) lie on the device too.
/// Throws std::invalid_argument for a batch of more than kMaxDeviceBatch.
constexpr int kMaxDeviceBatch = 4096;
void device_cells_cuda(const DeviceCells& cells, const std::int32_t* drawn_RB, const DeviceTable* tables_R, const std::uint8_t* active_R,
                       void* stream);

}  // namespace mnemo
