// Products in squares (models/ops/cuda_gemm.cuh) against float64, squares of both sides.

#include "models/ops/cuda_gemm.cuh"
#include "simt_test.h"

namespace mnemo {
namespace {

using simt::Device;

/// out [rows, columns] = a b + addend, and sums of the rows of a.
struct Operands {
  int rows, columns, depths;
  const float *a, *b, *addend;
  float *out, *row_sum;
};

/// Operands whose neighbours in memory differ in the depth, or do not; row sums where those of a do not; addends where `kAdd`.
template <bool kAAlong, bool kBAlong, bool kAdd>
struct Dense {
  static constexpr bool kAAlongDepth = kAAlong, kBAlongDepth = kBAlong, kRowSums = !kAAlong, kAddends = kAdd;
  GemmTile tile;
  Operands of;
  int row, column;

  __device__ Dense(const Operands& operands, int, const GemmSquare& at)
      : tile{operands.rows - at.row(), operands.columns - at.column(), operands.depths}, of(operands), row(at.row()), column(at.column()) {}
  __device__ float a(int i, int k) const { return of.a[kAAlong ? (row + i) * of.depths + k : k * of.rows + row + i]; }
  __device__ float b(int k, int j) const { return of.b[kBAlong ? (column + j) * of.depths + k : k * of.columns + column + j]; }
  __device__ int place(int i, int j) const { return (row + i) * of.columns + column + j; }
  __device__ float addend(int i, int j) const { return of.addend[place(i, j)]; }
  __device__ void out(int i, int j, float sum) const { of.out[place(i, j)] = sum; }
  __device__ void out(int i, int j, float sum, float addend) const { of.out[place(i, j)] = sum + addend; }
  __device__ void out_row_sum(int i, float sum) const { of.row_sum[row + i] = sum; }
};

struct Sizes {
  int rows, columns, depths;
  bool under_tsan = false;
};

struct Numbers {
  Sizes sizes;
  std::vector<float> a, b, addend;  // [rows, depths], [depths, columns], [rows, columns]
};

/// As a product wants them: [rows, columns] or [columns, rows].
std::vector<float> laid(const std::vector<float>& values, int rows, int columns, bool by_rows) {
  if (by_rows) return values;
  std::vector<float> turned(values.size());
  for (int i = 0; i < rows; ++i) {
    for (int j = 0; j < columns; ++j) turned[std::size_t(j * rows + i)] = values[std::size_t(i * columns + j)];
  }
  return turned;
}

using Answer = std::tuple<std::vector<float>, std::vector<float>>;  // out, row sums

template <class Product, bool kTf32, int kSide>
Answer product_of(const Numbers& of) {
  const auto [rows, columns, depths, under_tsan] = of.sizes;
  const Device<float> a(laid(of.a, rows, depths, Product::kAAlongDepth)), b(laid(of.b, depths, columns, !Product::kBAlongDepth)), addend(of.addend);
  const Device<float> out(of.addend.size()), row_sum(static_cast<std::size_t>(rows));
  const dim3 grid(unsigned(rows / kSide + 1), unsigned(columns / kSide + 1), 1);  // sometimes with squares that have nothing
  simt::launch<gemm<Product, kTf32, kSide, Operands>>(grid, gemm_threads(kSide), 0, nullptr,
                                                      Operands{rows, columns, depths, a, b, addend, out, row_sum}, 0);
  return {out.host(), row_sum.host()};
}

/// |got - sum of terms| <= unit * sum of |terms|, term after term in float64.
template <class Term>
void expect_sum(float got, int terms, const Term& term, double unit, const char* what) {
  double sum = 0, size = 0;
  for (int k = 0; k < terms; ++k) sum += term(k), size += std::abs(term(k));
  EXPECT_LE(std::abs(got - sum), unit * size) << what;
}

/// Both sides of squares, in every order of threads, and what they give; equal bits.
template <class Product, bool kTf32>
Answer in_both_squares(const Numbers& of) {
  const auto small = simt::in_every_order([&] { return product_of<Product, kTf32, kGemmSide>(of); });
  const auto large = simt::in_every_order([&] { return product_of<Product, kTf32, kLargeGemmSide>(of); });
  EXPECT_TRUE(simt::same_bits(small, large));
  return small;
}

template <bool kAAlong, bool kBAlong, bool kAdd>
void expect_products(const Numbers& of) {
  using Product = Dense<kAAlong, kBAlong, kAdd>;
  const auto [rows, columns, depths, under_tsan] = of.sizes;
  const auto [out, row_sum] = in_both_squares<Product, false>(of);
  const auto [rounded, row_sum_beside] = in_both_squares<Product, true>(of);
  const double unit = (depths + 1) * 0x1p-24;
  for (int i = 0; i < rows; ++i) {
    const auto a = [&](int k) { return double(of.a[std::size_t(i * depths + k)]); };
    for (int j = 0; j < columns; ++j) {
      const auto at = std::size_t(i * columns + j);
      const auto term = [&](int k) {
        if (k == depths) return kAdd ? double(of.addend[at]) : 0.;
        return a(k) * double(of.b[std::size_t(k * columns + j)]);
      };
      expect_sum(out[at], depths + 1, term, unit, "float32");
      expect_sum(rounded[at], depths + 1, term, 0x1p-10 + 2 * unit, "tf32");  // either factor off by 2^-11
    }
    if (!kAAlong) expect_sum(row_sum[std::size_t(i)], depths, a, unit, "row sum");
  }
  EXPECT_TRUE(kAAlong || simt::same_bits(row_sum, row_sum_beside)) << "row sums in tf32";
  EXPECT_TRUE(depths < 8 || !simt::same_bits(out, rounded)) << "float32 products";
}

TEST(CudaGemm, AgreesWithFloat64InSquaresOfBothSides) {
  simt::Random random;
  for (const Sizes& sizes : {Sizes{1, 1, 1}, {3, 5, 0}, {64, 64, 16}, {65, 130, 17, true}, {129, 2, 40}}) {
    if (simt::kTsan && !sizes.under_tsan) continue;
    SCOPED_TRACE(std::to_string(sizes.rows) + " x " + std::to_string(sizes.columns) + " x " + std::to_string(sizes.depths));
    const auto normals = [&](int rows, int columns) { return random.normals(std::size_t(rows * columns), 1); };
    const auto [rows, columns, depths, under_tsan] = sizes;
    const Numbers of{sizes, normals(rows, depths), normals(depths, columns), normals(rows, columns)};
    expect_products<true, true, true>(of);
    expect_products<true, false, true>(of);
    expect_products<false, false, false>(of);
    expect_products<false, true, false>(of);
  }
}

TEST(CudaGemm, NothingThatIsNotFiniteGetsLost) {
  if (simt::kTsan) GTEST_SKIP() << "other numbers alone";
  for (const float odd : {simt::kNan, std::numeric_limits<float>::infinity()}) {
    Numbers of{{3, 2, 9}, std::vector<float>(27, 1), std::vector<float>(18, 1), std::vector<float>(6, 0)};
    of.a[9 + 8] = odd;
    const auto [out, row_sum] = in_both_squares<Dense<false, true, true>, false>(of);
    const auto [rounded, row_sum_beside] = in_both_squares<Dense<false, true, true>, true>(of);
    for (std::size_t i = 0; i < 6; ++i) {
      EXPECT_EQ(std::isfinite(out[i]), i / 2 != 1);
      EXPECT_EQ(std::isfinite(rounded[i]), i / 2 != 1);
    }
    for (std::size_t i = 0; i < 3; ++i) EXPECT_EQ(std::isfinite(row_sum[i]), i != 1);
  }
}

TEST(CudaGemm, LargeSquaresWhereThereAreManyAndLittleOfThemIsEmpty) {
  const auto pay = [](std::int64_t rows, std::int64_t columns, std::int64_t products) {
    const auto squares = [&](std::int64_t side) { return ((rows + side - 1) / side) * ((columns + side - 1) / side) * products; };
    return large_squares_pay(squares(kGemmSide), squares(kLargeGemmSide));
  };
  EXPECT_TRUE(pay(25344, 128, 1));
  EXPECT_TRUE(pay(25344, 1152, 1));
  EXPECT_TRUE(pay(25344, 66, 1));    // small ones cover as much
  EXPECT_FALSE(pay(25344, 64, 1));   // half of a large one would be empty
  EXPECT_FALSE(pay(25344, 130, 1));  // 256 columns, not 192
  EXPECT_TRUE(pay(25344, 260, 1));   // 384, not 320
  EXPECT_FALSE(pay(608, 128, 1));    // 5 blocks
  EXPECT_TRUE(pay(608, 128, 64));
  EXPECT_FALSE(pay(128, 128, 131));
  EXPECT_TRUE(pay(128, 128, 132));
  EXPECT_FALSE(pay(0, 0, 1));
}

}  // namespace
}  // namespace mnemo
