#pragma once

#include "models/ops/vector.h"

// Matrix products whose width fits the first caches, in register tiles of M rows and N vectors. Rows of the right
// factor are aligned and padded to whole vectors with finite numbers. Sums over k run over all of a range, or over a
// list of those k where the left factor is not 0 in a tile of rows: relu makes more than half of the hidden units 0,
// the same ones in most of the neighbouring cells.

namespace mnemo {

/// Rows of the tallest tile.
inline constexpr std::int64_t kTileRows = 6;

/// All k < size.
struct AllOf {
  std::int64_t size;
  std::int64_t operator[](std::int64_t i) const { return i; }
};

/// The same for every row.
inline auto all_of(std::int64_t size) {
  return [size](std::int64_t) { return AllOf{size}; };
}

/// The k that a list names.
struct Listed {
  std::int64_t size;
  const std::int32_t* index;
  std::int64_t operator[](std::int64_t i) const { return index[i]; }
};

/// For each tile of kTileRows rows of a matrix, the columns that are not 0 in all of its rows.
class LiveColumns {
 public:
  LiveColumns() = default;
  /// For matrices of at most this size. A multiple of kTileRows rows must exist; those beyond may hold anything finite.
  LiveColumns(std::int64_t rows, std::int64_t columns)
      : stride_(columns),
        index_(static_cast<std::size_t>((rows / kTileRows + 1) * columns)),
        count_(static_cast<std::size_t>(rows / kTileRows + 1)) {}

  template <class Real>
  void find(const Matrix<Real>& matrix, std::int64_t rows, std::int64_t columns) {
    for (std::int64_t row = 0, tile = 0; row < rows; row += kTileRows, ++tile) {
      std::int32_t* list = index_.data() + tile * stride_;
      std::int64_t count = 0;
      for (std::int64_t column = 0; column < columns; column += kLanes<Real>) {
        union {
          Mask<Real> any;
          decltype(Mask<Real>{}[0] + 0) lane[kLanes<Real>];
        } live{};
        for (int r = 0; r < kTileRows; ++r) live.any |= load(matrix[row + r] + column) != Real{0};
        for (std::int64_t lane = 0; lane < kLanes<Real>; ++lane) {  // columns beyond the last are padding, never live
          list[count] = static_cast<std::int32_t>(column + lane);
          count -= live.lane[lane];  // -1 for true
        }
      }
      count_[static_cast<std::size_t>(tile)] = count;
    }
  }
  Listed operator()(std::int64_t row) const {
    const auto tile = row / kTileRows;
    return {count_[static_cast<std::size_t>(tile)], index_.data() + tile * stride_};
  }

 private:
  std::int64_t stride_ = 0;
  std::vector<std::int32_t> index_;
  std::vector<std::int64_t> count_;
};

/// How the left factor A is stored: A(m, k) = data[m * stride + k], or, transposed, data[k * stride + m].
enum class Stored { plain, transposed };

/// acc[m][n] = sum over k in `depth` of A(m, k) B(k, n).
template <Stored stored, int M, int N, class Real, class Depth>
[[gnu::always_inline]] inline void multiply_tile(Vec<Real> (&acc)[M][N], const Real* a, std::int64_t a_stride, const Real* b, std::int64_t b_stride,
                                                 Depth depth) {
  for (auto& row : acc) {
    for (auto& vector : row) vector = Vec<Real>{};
  }
  for (std::int64_t i = 0; i < depth.size; ++i) {
    const auto k = depth[i];
    const auto left_of = [&](int m) { return broadcast(stored == Stored::plain ? a[m * a_stride + k] : a[k * a_stride + m]); };
    const auto right_of = [&](int n) { return load(b + k * b_stride + n * kLanes<Real>); };
    if constexpr (M < N) {  // keep the fewer factors in registers
      Vec<Real> left[M];
      for (int m = 0; m < M; ++m) left[m] = in_register(left_of(m));
      for (int n = 0; n < N; ++n) {
        const auto right = in_register(right_of(n));
        for (int m = 0; m < M; ++m) acc[m][n] += left[m] * right;
      }
    } else {
      Vec<Real> right[N];
      for (int n = 0; n < N; ++n) right[n] = in_register(right_of(n));
      for (int m = 0; m < M; ++m) {
        const auto left = in_register(left_of(m));
        for (int n = 0; n < N; ++n) acc[m][n] += left * right[n];
      }
    }
  }
}

/// Rows [row, rows) of a strip of N vectors, in tiles of M rows and one smaller tile.
template <Stored stored, int M, int N, class Real, class DepthOf, class Finish>
void multiply_strip(std::int64_t row, std::int64_t rows, std::int64_t column, const DepthOf& depth_of, const Real* a, std::int64_t a_stride,
                    const Real* b, std::int64_t b_stride, const Finish& finish) {
  for (; row + M <= rows; row += M) {
    Vec<Real> acc[M][N];
    multiply_tile<stored, M, N>(acc, stored == Stored::plain ? a + row * a_stride : a + row, a_stride, b + column, b_stride, depth_of(row));
    for (int m = 0; m < M; ++m) {
      for (int n = 0; n < N; ++n) finish(row + m, column + n * kLanes<Real>, acc[m][n]);
    }
  }
  if constexpr (M > 1) {
    if (row < rows) multiply_strip<stored, M - 1, N>(row, rows, column, depth_of, a, a_stride, b, b_stride, finish);
  }
}

/// A B for A rows x depth and B depth x columns; `finish(row, column, vector)` receives every element once, in vectors.
/// `depth_of(row)`: the k to sum over (AllOf or Listed). The tile sizes keep up to 12 sums and their factors in 16
/// registers.
template <Stored stored, class Real, class DepthOf, class Finish>
void multiply(std::int64_t rows, std::int64_t columns, const DepthOf& depth_of, const Real* a, std::int64_t a_stride, const Real* b,
              std::int64_t b_stride, const Finish& finish) {
  for_strips<Real>(columns, [&]<int N>(std::int64_t column) {
    multiply_strip<stored, (N > 2 ? kTileRows / 2 : kTileRows), N>(0, rows, column, depth_of, a, a_stride, b, b_stride, finish);
  });
}

/// c[k] += sum over M rows s of a[s][k] b[s], N vectors of columns, for the k in `depth`.
template <int M, int N, class Real, class Depth>
void add_outer_tile(const Real* a, std::int64_t a_stride, const Real* b, std::int64_t b_stride, Depth depth, Real* c, std::int64_t c_stride) {
  Vec<Real> right[M][N];
  for (int m = 0; m < M; ++m) {
    for (int n = 0; n < N; ++n) right[m][n] = load(b + m * b_stride + n * kLanes<Real>);
  }
  for (std::int64_t i = 0; i < depth.size; ++i) {
    const auto k = depth[i];
    Vec<Real> sum[N];
    for (int n = 0; n < N; ++n) sum[n] = load(c + k * c_stride + n * kLanes<Real>);
    for (int m = 0; m < M; ++m) {
      const auto left = broadcast(a[m * a_stride + k]);
      for (int n = 0; n < N; ++n) sum[n] += left * right[m][n];
    }
    for (int n = 0; n < N; ++n) store(c + k * c_stride + n * kLanes<Real>, sum[n]);
  }
}

/// Rows [row, rows) of a strip of N vectors, in tiles of M rows and one smaller tile.
template <int M, int N, class Real, class DepthOf>
void add_outer_strip(std::int64_t row, std::int64_t rows, const DepthOf& depth_of, const Real* a, std::int64_t a_stride, const Real* b,
                     std::int64_t b_stride, Real* c, std::int64_t c_stride) {
  for (; row + M <= rows; row += M) {
    add_outer_tile<M, N>(a + row * a_stride, a_stride, b + row * b_stride, b_stride, depth_of(row), c, c_stride);
  }
  if constexpr (M > 1) {
    if (row < rows) add_outer_strip<M - 1, N>(row, rows, depth_of, a, a_stride, b, b_stride, c, c_stride);
  }
}

/// c += A^T B for A rows x k (those of `depth_of(row)`) and B rows x columns: few rows at a time, whose part of B stays
/// in registers, so that columns of A that are 0 cost nothing.
template <class Real, class DepthOf>
void add_transposed_product(std::int64_t rows, std::int64_t columns, const DepthOf& depth_of, const Real* a, std::int64_t a_stride, const Real* b,
                            std::int64_t b_stride, Real* c, std::int64_t c_stride) {
  for (std::int64_t column = 0; column < columns; column += 2 * kLanes<Real>) {
    const auto strip = [&]<int N>() { add_outer_strip<kTileRows, N>(0, rows, depth_of, a, a_stride, b + column, b_stride, c + column, c_stride); };
    columns - column > kLanes<Real> ? strip.template operator()<2>() : strip.template operator()<1>();
  }
}

}  // namespace mnemo
