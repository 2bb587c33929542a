#include "models/ops/cell_attention.h"

#include "core/batches.h"
#include "core/philox.h"
#include "core/sequences.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

namespace mnemo {
namespace {

std::vector<double> random_numbers(std::int64_t count, double std, const char* name) {
  std::vector<double> values(static_cast<std::size_t>(count));
  fill_normal(values, std, 0, name);
  return values;
}

/// All strings of a table as a batch, and where attention finds its inputs: the cells themselves, or the 2P tokens.
struct Case {
  std::int64_t heads, head_dim;
  Cells cells;
  std::vector<std::int64_t> first_cell;
  std::vector<std::int32_t> input;
  std::int64_t num_inputs;

  Case(const SequenceTable& table, std::int64_t H, std::int64_t F, bool tokens, Sharing sharing = Sharing::prefixes) : heads(H), head_dim(F) {
    std::vector<std::int32_t> drawn(static_cast<std::size_t>(table.num_sequences()));
    std::iota(drawn.begin(), drawn.end(), 0);
    cells = cells_of_batch(table, drawn, sharing);
    for (std::int32_t row = 0; row <= cells.num_rows(); ++row) {
      first_cell.push_back(std::lower_bound(cells.row.begin(), cells.row.end(), row) - cells.row.begin());
    }
    num_inputs = tokens ? 2 * cells.num_positions() : cells.num_cells();
    input = cells.cell_of;
    for (std::size_t at = 0; tokens && at < input.size(); ++at) {
      const auto P = static_cast<std::size_t>(cells.num_positions());
      const auto position = static_cast<std::int32_t>(at % P);
      input[at] = 2 * position + table.bit(cells.ranks[at / P], position);
    }
  }
  std::int64_t width() const { return heads * head_dim; }
  CellRows rows() const { return {cells.num_rows(), cells.num_positions(), heads, head_dim, first_cell.data(), cells.cell_of.data(), input.data()}; }
};

/// What every cell attends to [N, C], by the definition.
std::vector<double> attended_by_definition(const Case& of, const std::vector<double>& qkv) {
  const auto P = of.cells.num_positions(), C = of.width();
  std::vector<double> attended(static_cast<std::size_t>(of.cells.num_cells() * C));
  for (std::int64_t n = 0; n < of.cells.num_cells(); ++n) {
    const auto* inputs = of.input.data() + of.cells.row[static_cast<std::size_t>(n)] * P;
    const auto i = of.cells.position[static_cast<std::size_t>(n)];
    for (std::int64_t head = 0; head < of.heads; ++head) {
      const auto at = [&](std::int64_t j, std::int64_t part) { return qkv.data() + (inputs[j] * 3 + part) * C + head * of.head_dim; };
      double sum = 0;
      std::vector<double> weighted(static_cast<std::size_t>(of.head_dim));
      for (std::int64_t j = 0; j <= i; ++j) {
        const auto score = std::inner_product(at(i, 0), at(i, 0) + of.head_dim, at(j, 1), 0.0) / std::sqrt(static_cast<double>(of.head_dim));
        const auto weight = std::exp(score);
        sum += weight;
        for (std::size_t f = 0; f < weighted.size(); ++f) weighted[f] += weight * at(j, 2)[f];
      }
      for (std::size_t f = 0; f < weighted.size(); ++f) attended[static_cast<std::size_t>(n * C + head * of.head_dim) + f] = weighted[f] / sum;
    }
  }
  return attended;
}

template <class Real>
struct Measured {
  std::vector<Real> attended, log_sum, dqkv;
};

template <class Real>
Measured<Real> measured(const Case& of, const std::vector<double>& qkv_of_double, const std::vector<double>& slope_of_double, int threads = 1) {
  const std::vector<Real> qkv(qkv_of_double.begin(), qkv_of_double.end()), slope(slope_of_double.begin(), slope_of_double.end());
  const auto N = static_cast<std::size_t>(of.cells.num_cells()), C = static_cast<std::size_t>(of.width());
  constexpr auto kUnwritten = std::numeric_limits<Real>::quiet_NaN();
  Measured<Real> m{std::vector<Real>(N * C, kUnwritten), std::vector<Real>(N * static_cast<std::size_t>(of.heads), kUnwritten),
                   std::vector<Real>(N * 3 * C, kUnwritten)};
  attend_cells(of.rows(), qkv.data(), m.attended.data(), m.log_sum.data(), threads);
  attend_cells_backward(of.rows(), qkv.data(), m.attended.data(), m.log_sum.data(), slope.data(), m.dqkv.data(), threads);
  return m;
}

template <class A, class B>
double largest_difference(const std::vector<A>& a, const std::vector<B>& b) {
  double largest = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    const auto difference = std::abs(static_cast<double>(a[i]) - static_cast<double>(b[i]));
    if (!(difference <= largest) && !std::isnan(largest)) largest = difference;  // NaN stays
  }
  return largest;
}

/// The gradient of qkv, [M, 3C], from that by cell.
template <class Real>
std::vector<double> by_input(const Case& of, const std::vector<Real>& dqkv_of_cells) {
  const auto P = of.cells.num_positions(), width = 3 * of.width();
  std::vector<double> sums(static_cast<std::size_t>(of.num_inputs * width));
  for (std::int64_t n = 0; n < of.cells.num_cells(); ++n) {
    const auto place = static_cast<std::size_t>(of.cells.row[static_cast<std::size_t>(n)] * P + of.cells.position[static_cast<std::size_t>(n)]);
    for (std::int64_t c = 0; c < width; ++c) {
      sums[static_cast<std::size_t>(of.input[place] * width + c)] += static_cast<double>(dqkv_of_cells[static_cast<std::size_t>(n * width + c)]);
    }
  }
  return sums;
}

/// The forward pass against the definition, the backward pass against differences of it, at every `step`th number.
void expect_attention(const Case& of, std::size_t step) {
  const auto qkv = random_numbers(of.num_inputs * 3 * of.width(), 1.5, "qkv");
  const auto slope = random_numbers(of.cells.num_cells() * of.width(), 1, "slope");
  const auto exact = attended_by_definition(of, qkv);
  const auto in_double = measured<double>(of, qkv, slope);
  const auto in_float = measured<float>(of, qkv, slope);
  EXPECT_LT(largest_difference(in_double.attended, exact), 1e-13);
  EXPECT_LT(largest_difference(in_float.attended, exact), 5e-6);
  EXPECT_LT(largest_difference(in_float.log_sum, in_double.log_sum), 5e-6);
  EXPECT_LT(largest_difference(in_float.dqkv, in_double.dqkv), 1e-4);
  const auto gradient = by_input(of, in_double.dqkv);
  const auto value = [&](std::size_t index, double by) {
    auto moved = qkv;
    moved[index] += by;
    const auto attended = attended_by_definition(of, moved);
    return std::inner_product(attended.begin(), attended.end(), slope.begin(), 0.0);
  };
  constexpr double kBy = 1e-5;
  for (std::size_t index = 0; index < qkv.size(); index += step) {
    const auto difference = (value(index, kBy) - value(index, -kBy)) / (2 * kBy);
    EXPECT_NEAR(gradient[index], difference, 1e-7 * (1 + std::abs(difference))) << index;
  }
}

TEST(CellAttention, EqualsItsDefinitionAndTheGradientDifferencesOfIt) {
  const std::tuple<std::int64_t, std::int64_t, std::int64_t, std::int64_t> shapes[] = {
      {2, 2, 1, 1}, {1, 7, 2, 3}, {9, 14, 3, 5}, {5, 31, 1, 16}, {3, 26, 2, 11}};  // strings, L, H, F
  for (const auto& [K, L, H, F] : shapes) {
    for (const bool tokens : {false, true}) {
      SCOPED_TRACE(fmt::format("{} strings of {} bits, {} heads of {}, inputs {}", K, L, H, F, tokens ? "tokens" : "cells"));
      const Case of(SequenceTable::random(0, 0, K, L), H, F, tokens);
      expect_attention(of, of.cells.num_cells() > 50 ? 29 : 1);
    }
  }
}

/// More rows than one thread takes one after another, most of which share long prefixes, and half of them all of their cells.
TEST(CellAttention, AddsUpOverRowsThatShareCells) {
  constexpr std::int64_t L = 8;
  std::vector<std::uint8_t> bits;
  for (int number = 0; number < 1 << L; number += number % 3 == 0 ? 1 : 2) {
    for (int j = L; j-- > 0;) bits.push_back(static_cast<std::uint8_t>(number >> j & 1));
  }
  const auto rows = std::ssize(bits) / L;
  const auto table = SequenceTable::from_array(view_of(bits.data(), {rows, L}));
  for (const bool tokens : {false, true}) {
    const Case of(table, 2, 3, tokens);
    ASSERT_GT(of.cells.num_rows(), 100);
    ASSERT_LT(of.cells.num_cells(), of.cells.num_rows() + 100);
    expect_attention(of, tokens ? 5 : 101);
  }
  expect_attention(Case(table, 2, 3, true, Sharing::none), 11);  // every row holds all of its cells
}

TEST(CellAttention, ResultsDoNotDependOnTheNumberOfThreads) {
  const Case of(SequenceTable::random(3, 0, 90, 40), 3, 8, false);
  const auto qkv = random_numbers(of.num_inputs * 3 * of.width(), 1, "qkv");
  const auto slope = random_numbers(of.cells.num_cells() * of.width(), 1, "slope");
  const auto one = measured<float>(of, qkv, slope, 1), three = measured<float>(of, qkv, slope, 3);
  EXPECT_EQ(one.attended, three.attended);
  EXPECT_EQ(one.log_sum, three.log_sum);
  EXPECT_EQ(one.dqkv, three.dqkv);
}

TEST(CellAttention, LargeScoresNeitherOverflowNorVanish) {
  const Case of(SequenceTable::random(0, 0, 4, 20), 1, 4, false);
  auto qkv = random_numbers(of.num_inputs * 12, 1, "qkv");
  for (std::size_t i = 0; i < qkv.size(); ++i) qkv[i] *= i % 12 < 8 ? 30 : 1;  // queries and keys: scores of a thousand
  const auto slope = random_numbers(of.cells.num_cells() * 4, 1, "slope");
  const auto in_float = measured<float>(of, qkv, slope);
  const auto in_double = measured<double>(of, qkv, slope);
  EXPECT_LT(largest_difference(in_float.attended, in_double.attended), 2e-3);
  EXPECT_LT(largest_difference(in_float.log_sum, in_double.log_sum), 2e-3);
  EXPECT_LT(largest_difference(in_float.dqkv, in_double.dqkv), 0.1);
}

}  // namespace
}  // namespace mnemo
