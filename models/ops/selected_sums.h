#pragma once

#include "models/ops/vector.h"

// Sums of selected rows: out[s] = sum over positions j of rows[2 j + bit(s, j)], and its transpose. This is the product
// of a one-hot matrix with a table of 2 x positions rows, by pattern tables ("four Russians", Arlazarov et al. 1970):
// kBits positions form a group, whose 2^kBits sums are made once; a cell then adds one of them per group.

namespace mnemo {

/// Sequences as patterns: `bits` bits a group, the earliest most significant; of the last group those beyond the length are 0.
class PatternRows {
 public:
  void reset(std::int64_t rows, std::int64_t length, int bits) {
    length_ = length;
    bits_ = bits;
    groups_ = (length + bits - 1) / bits;
    data_.resize(static_cast<std::size_t>(rows * groups_));
  }
  /// From packed words, the first bit on top.
  void set(std::int64_t row, const std::uint64_t* words) {
    auto* out = data_.data() + row * groups_;
    for (std::int64_t at = 0; at < length_; at += bits_) {
      const auto* word = words + at / 64;
      const auto offset = at % 64;
      auto group = *word << offset;
      if (offset > 64 - bits_ && (at / 64 + 1) * 64 < length_) group |= word[1] >> (64 - offset);
      *out++ = static_cast<std::uint8_t>(group >> (64 - bits_));
    }
  }
  const std::uint8_t* of(std::int64_t row) const { return data_.data() + row * groups_; }
  int bits() const { return bits_; }

 private:
  std::int64_t length_ = 0, groups_ = 0;
  int bits_ = 1;
  std::vector<std::uint8_t> data_;
};

/// Patterns of the cells of a batch.
struct Patterns {
  const PatternRows& rows;
  const std::int32_t* row;  ///< of each cell

  const std::uint8_t* of(std::int64_t cell) const { return rows.of(row[cell]); }
};

/// table[g][p] = sum over the positions of group g of the row that pattern p selects; N vectors from `rows`.
template <int kBits, int N, class Real>
void make_pattern_sums(const Real* rows, std::int64_t stride, std::int64_t groups, Real* table) {
  constexpr auto kWidth = N * kLanes<Real>;
  for (std::int64_t g = 0; g < groups; ++g, table += kWidth << kBits, rows += 2 * kBits * stride) {
    for (int n = 0; n < N; ++n) {
      Real* sums = table + n * kLanes<Real>;
      const Real* from = rows + n * kLanes<Real>;
      store(sums, Vec<Real>{});
      for (int done = 0; done < kBits; ++done) {
        const Real* pair = from + 2 * (kBits - 1 - done) * stride;
        const auto zero = load(pair), one = load(pair + stride);
        for (int p = 0; p < 1 << done; ++p) {
          const auto sum = load(sums + p * kWidth);
          store(sums + p * kWidth, sum + zero);
          store(sums + (p + (1 << done)) * kWidth, sum + one);
        }
      }
    }
  }
}

/// The transpose of make_pattern_sums. Overwrites `rows`; destroys `table`.
template <int kBits, int N, class Real>
void split_pattern_sums(Real* table, std::int64_t groups, Real* rows, std::int64_t stride) {
  constexpr auto kWidth = N * kLanes<Real>;
  for (std::int64_t g = 0; g < groups; ++g, table += kWidth << kBits, rows += 2 * kBits * stride) {
    for (int n = 0; n < N; ++n) {
      Real* sums = table + n * kLanes<Real>;
      for (int done = kBits - 1; done >= 0; --done) {
        Vec<Real> zero{}, one{};
        for (int p = 0; p < 1 << done; ++p) {
          const auto sum_zero = load(sums + p * kWidth), sum_one = load(sums + (p + (1 << done)) * kWidth);
          zero += sum_zero;
          one += sum_one;
          store(sums + p * kWidth, sum_zero + sum_one);
        }
        Real* pair = rows + 2 * (kBits - 1 - done) * stride + n * kLanes<Real>;
        store(pair, zero);
        store(pair + stride, one);
      }
    }
  }
}

/// Cells that are summed side by side, so that their chains of additions overlap: M of them, then one by one.
template <int M, class Body>
void for_cells(std::int64_t n, const Body& body) {
  std::int64_t s = 0;
  for (; s + M <= n; s += M) body.template operator()<M>(s);
  for (; s < n; ++s) body.template operator()<1>(s);
}

/// finish(s, sums) for s < n, with sums = begin(s) + one entry of `table` for each group, the one that pattern_of(s) names.
template <int kBits, int N, class Real, class PatternOf, class Begin, class Finish>
void gather_patterns(std::int64_t n, std::int64_t groups, const Real* table, const PatternOf& pattern_of, const Begin& begin, const Finish& finish) {
  constexpr auto kWidth = N * kLanes<Real>;
  for_cells<12 / N>(n, [&]<int M>(std::int64_t s) {
    const std::uint8_t* pattern[M];
    Vec<Real> sum[M][N];
    for (int m = 0; m < M; ++m) {
      pattern[m] = pattern_of(s + m);
      for (int v = 0; v < N; ++v) sum[m][v] = begin(s + m);
    }
    const Real* group = table;
    for (std::int64_t g = 0; g < groups; ++g, group += kWidth << kBits) {
      for (int m = 0; m < M; ++m) {
        for (int v = 0; v < N; ++v) sum[m][v] += load(group + pattern[m][g] * kWidth + v * kLanes<Real>);
      }
    }
    for (int m = 0; m < M; ++m) finish(s + m, sum[m]);
  });
}

/// The transpose: adds the N vectors at value_of(s), s < n, to the entries that pattern_of(s) names.
template <int kBits, int N, class Real, class PatternOf, class ValueOf>
void scatter_patterns(std::int64_t n, std::int64_t groups, Real* table, const PatternOf& pattern_of, const ValueOf& value_of) {
  constexpr auto kWidth = N * kLanes<Real>;
  for_cells<12 / N>(n, [&]<int M>(std::int64_t s) {
    const std::uint8_t* pattern[M];
    Vec<Real> value[M][N];
    for (int m = 0; m < M; ++m) {
      pattern[m] = pattern_of(s + m);
      for (int v = 0; v < N; ++v) value[m][v] = load(value_of(s + m) + v * kLanes<Real>);
    }
    Real* group = table;
    for (std::int64_t g = 0; g < groups; ++g, group += kWidth << kBits) {
      for (int m = 0; m < M; ++m) {
        Real* entry = group + pattern[m][g] * kWidth;
        for (int v = 0; v < N; ++v) store(entry + v * kLanes<Real>, load(entry + v * kLanes<Real>) + value[m][v]);
      }
    }
  });
}

/// out[s] = sum over j < kBits groups of rows[2 j + bit(s, j)] for n cells; `columns` a multiple of the vector width.
/// `table` is scratch of (groups << kBits) * 4 vectors.
template <int kBits, class Real>
void sum_selected(const Patterns& patterns, std::int64_t n, std::int64_t groups, std::int64_t columns, const Real* rows, std::int64_t stride,
                  Real* out, std::int64_t out_stride, Real* table) {
  for_strips<Real>(columns, [&]<int N>(std::int64_t column) {
    make_pattern_sums<kBits, N>(rows + column, stride, groups, table);
    gather_patterns<kBits, N>(
        n, groups, static_cast<const Real*>(table), [&](std::int64_t s) { return patterns.of(s); }, [](std::int64_t) { return Vec<Real>{}; },
        [&](std::int64_t s, const Vec<Real>(&sum)[N]) {
          for (int v = 0; v < N; ++v) store(out + s * out_stride + column + v * kLanes<Real>, sum[v]);
        });
  });
}

/// The transpose: rows[2 j + c] = sum over the cells with bit(s, j) = c of out[s].
template <int kBits, class Real>
void scatter_selected(const Patterns& patterns, std::int64_t n, std::int64_t groups, std::int64_t columns, const Real* out, std::int64_t out_stride,
                      Real* rows, std::int64_t stride, Real* table) {
  for_strips<Real>(columns, [&]<int N>(std::int64_t column) {
    std::memset(table, 0, static_cast<std::size_t>((groups << kBits) * N * kLanes<Real>) * sizeof(Real));
    scatter_patterns<kBits, N>(
        n, groups, table, [&](std::int64_t s) { return patterns.of(s); }, [&](std::int64_t s) { return out + s * out_stride + column; });
    split_pattern_sums<kBits, N>(table, groups, rows + column, stride);
  });
}

}  // namespace mnemo
