#include "core/philox.h"
#include "core/sequences.h"
#include "models/ops/selected_sums.h"
#include "models/ops/small_gemm.h"

#include <gtest/gtest.h>

namespace mnemo {
namespace {

template <class Real>
class Kernels : public testing::Test {
 protected:
  static constexpr double kTolerance = sizeof(Real) == 4 ? 1e-5 : 1e-13;

  /// Normal entries; every third column of the first rows 0 where `holes`.
  static Matrix<Real> random(std::int64_t rows, std::int64_t columns, std::uint32_t seed, bool holes = false) {
    std::vector<double> values(static_cast<std::size_t>(rows * columns));
    fill_normal(values, 1, seed, "test");
    Matrix<Real> matrix(rows, columns);
    for (std::int64_t r = 0; r < rows; ++r) {
      for (std::int64_t c = 0; c < columns; ++c) {
        if (!holes || (c + r / kTileRows) % 3 != 0) matrix[r][c] = static_cast<Real>(values[static_cast<std::size_t>(r * columns + c)]);
      }
    }
    return matrix;
  }
};

using Reals = testing::Types<float, double>;
TYPED_TEST_SUITE(Kernels, Reals);

TYPED_TEST(Kernels, CrossEntropyOfVectorsEqualsThatOfNumbers) {
  using Real = TypeParam;
  const auto zero = broadcast(Real(.3)), one = broadcast(Real(.7));
  for (const double z : {0.0, 1e-3, -0.5, 3.0, -19.9, 60.0, -80.0}) {
    const Bce<Vec<Real>> bce(broadcast(static_cast<Real>(z)));
    const Bce<double> exact(static_cast<Real>(z));
    EXPECT_NEAR(bce.loss(zero, one)[0], exact.loss(zero[0], one[0]), this->kTolerance * std::max(1.0, std::abs(z))) << z;
    EXPECT_NEAR(bce.slope(zero, one)[0], exact.slope(zero[0], one[0]), this->kTolerance) << z;
    EXPECT_NEAR(bce.right(zero, one)[0], exact.right(zero[0], one[0]), this->kTolerance) << z;
  }
}

TYPED_TEST(Kernels, ProductsEqualTheirDefinition) {
  using Real = TypeParam;
  for (const std::int64_t rows : {1, 5, 6, 13, 24}) {
    for (const std::int64_t columns : {1, 8, 19, 24, 70}) {
      for (const std::int64_t depth : {1, 7, 40}) {
        const auto padded = round_up(rows, kTileRows);
        const auto a = this->random(padded, depth, 1, true), b = this->random(depth, columns, 2), right = this->random(padded, columns, 3);
        Matrix<Real> plain(rows, columns), listed(rows, columns), transposed(depth, columns), outer(depth, columns), outer_all(depth, columns);
        LiveColumns live(padded, depth);
        live.find(a, rows, depth);
        const auto into = [](auto& matrix) { return [&matrix](auto row, auto column, auto sum) { store(matrix[row] + column, sum); }; };
        multiply<Stored::plain>(rows, columns, all_of(depth), a[0], a.stride(), b[0], b.stride(), into(plain));
        multiply<Stored::plain>(rows, columns, live, a[0], a.stride(), b[0], b.stride(), into(listed));
        multiply<Stored::transposed>(depth, columns, all_of(rows), a[0], a.stride(), right[0], right.stride(), into(transposed));
        add_transposed_product(rows, columns, live, a[0], a.stride(), right[0], right.stride(), outer[0], outer.stride());
        add_transposed_product(rows, columns, all_of(depth), a[0], a.stride(), right[0], right.stride(), outer_all[0], outer_all.stride());
        for (std::int64_t c = 0; c < columns; ++c) {
          for (std::int64_t r = 0; r < rows; ++r) {
            double expected = 0;
            for (std::int64_t k = 0; k < depth; ++k) expected += static_cast<double>(a[r][k]) * static_cast<double>(b[k][c]);
            EXPECT_NEAR(plain[r][c], expected, this->kTolerance);
            EXPECT_EQ(listed[r][c], plain[r][c]);
          }
          for (std::int64_t k = 0; k < depth; ++k) {
            double expected = 0;
            for (std::int64_t r = 0; r < rows; ++r) expected += static_cast<double>(a[r][k]) * static_cast<double>(right[r][c]);
            EXPECT_NEAR(transposed[k][c], expected, this->kTolerance);
            EXPECT_NEAR(outer[k][c], expected, this->kTolerance);
            EXPECT_EQ(outer[k][c], outer_all[k][c]);
          }
        }
      }
    }
  }
}

template <int kBits, class Real>
void expect_selected_sums(const Matrix<Real>& rows, const Matrix<Real>& cells, std::int64_t positions, std::int64_t n, std::int64_t columns,
                          double tolerance) {
  const auto table = SequenceTable::random(1, 0, n, positions);
  const auto groups = (positions + kBits - 1) / kBits;
  PatternRows patterns;
  patterns.reset(n, positions, kBits);
  std::vector<std::int32_t> row;
  for (std::int64_t s = 0; s < n; ++s) {
    row.push_back(static_cast<std::int32_t>(n - 1 - s));
    patterns.set(s, table.row(s).data());
  }
  Matrix<Real> out(n, columns), split(2 * groups * kBits, columns), scratch(groups << kBits, 4 * kLanes<Real>);
  const Patterns view{patterns, row.data()};
  sum_selected<kBits>(view, n, groups, columns, rows[0], rows.stride(), out[0], out.stride(), scratch[0]);
  scatter_selected<kBits>(view, n, groups, columns, cells[0], cells.stride(), split[0], split.stride(), scratch[0]);
  for (std::int64_t c = 0; c < columns; ++c) {
    std::vector<double> expected_split(static_cast<std::size_t>(2 * positions), 0);
    for (std::int64_t s = 0; s < n; ++s) {
      double expected = 0;
      for (std::int64_t j = 0; j < groups * kBits; ++j) {  // positions beyond the last read bit 0
        const bool bit = j < positions && table.bit(row[static_cast<std::size_t>(s)], j);
        expected += static_cast<double>(rows[2 * j + bit][c]);
        if (j < positions) expected_split[static_cast<std::size_t>(2 * j + bit)] += static_cast<double>(cells[s][c]);
      }
      EXPECT_NEAR(out[s][c], expected, tolerance);
    }
    for (std::int64_t t = 0; t < 2 * positions; ++t) EXPECT_NEAR(split[t][c], expected_split[static_cast<std::size_t>(t)], tolerance);
  }
}

TEST(PatternRows, HoldTheBitsInOrderAcrossWords) {
  for (const int bits : {1, 2, 4, 5, 7}) {
    for (const std::int64_t length : {1, 5, 63, 64, 65, 130}) {
      const auto table = SequenceTable::random(3, 0, 2, length);
      PatternRows patterns;
      patterns.reset(2, length, bits);
      for (std::int64_t row = 0; row < 2; ++row) patterns.set(row, table.row(row).data());
      for (std::int64_t row = 0; row < 2; ++row) {
        for (std::int64_t i = 0; i < (length + bits - 1) / bits * bits; ++i) {
          const bool bit = patterns.of(row)[i / bits] >> (bits - 1 - i % bits) & 1;
          EXPECT_EQ(bit, i < length && table.bit(row, i)) << bits << " bits, length " << length << ", at " << i;
        }
      }
    }
  }
}

TYPED_TEST(Kernels, SelectedSumsEqualTheOneHotProduct) {
  for (const std::int64_t positions : {1, 4, 6, 33}) {
    for (const std::int64_t n : {1, 7, 50}) {
      for (const std::int64_t columns : {8, 24, 40}) {
        const auto rows = this->random(2 * round_up(positions, 4), columns, 1), cells = this->random(n, columns, 2);
        expect_selected_sums<4>(rows, cells, positions, n, columns, this->kTolerance);
        expect_selected_sums<2>(rows, cells, positions, n, columns, this->kTolerance);
      }
    }
  }
}

TYPED_TEST(Kernels, FunctionsAreAccurate) {
  using Real = TypeParam;
  double worst_exp = 0, worst_log = 0;
  for (double x = -86.9; x < 20; x += 0.0137) {
    const auto narrow = static_cast<Real>(x);
    worst_exp = std::max(worst_exp, std::abs(exp(broadcast(narrow))[0] / std::exp(static_cast<double>(narrow)) - 1));
    const auto e = static_cast<Real>(std::exp(-std::abs(x) / 4));
    worst_log = std::max(worst_log, std::abs(log1p_of_unit(broadcast(e))[0] / std::log1p(static_cast<double>(e)) - 1));
  }
  const double limit = sizeof(Real) == 4 ? 2e-7 : 1e-15;
  EXPECT_LT(worst_exp, limit);
  EXPECT_LT(worst_log, limit);
  EXPECT_EQ(exp(broadcast(-std::numeric_limits<Real>::infinity()))[0], 0);
  EXPECT_TRUE(std::isnan(exp(broadcast(std::numeric_limits<Real>::quiet_NaN()))[0]));
}

}  // namespace
}  // namespace mnemo
