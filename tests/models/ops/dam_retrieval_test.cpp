#include "models/ops/dam_retrieval.h"

#include "core/philox.h"
#include "golden.h"
#include "models/ops/dam_oracle.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <limits>
#include <map>
#include <numeric>

namespace mnemo {
namespace {

using oracle::Bits;
using oracle::DamLoss;

SequenceTable table_of(const Bits& rows, std::size_t length) {
  std::vector<std::uint8_t> flat;
  for (const auto& row : rows) flat.insert(flat.end(), row.begin(), row.end());
  return SequenceTable::from_array(view_of(flat.data(), {static_cast<std::int64_t>(rows.size()), static_cast<std::int64_t>(length)}));
}

/// Slots with duplicates as distinct stored sequences with counts.
struct Memory {
  SequenceTable table;
  std::vector<StoredSequence> stored;

  explicit Memory(const Bits& slots) : table(table_of(slots, slots[0].size())) {
    std::map<std::vector<int>, std::pair<std::int64_t, std::int64_t>> counts;  // by string: first slot, count
    for (std::size_t m = 0; m < slots.size(); ++m) ++counts.try_emplace(slots[m], static_cast<std::int64_t>(m), 0).first->second.second;
    for (const auto& [string, entry] : counts) stored.push_back({table.row(entry.first).data(), entry.second});
  }
};

template <class Real>
struct Weights {
  std::vector<Real> A, B;
  DamTensors<const Real> view() const { return {A.data(), B.data()}; }
  DamTensors<Real> mutable_view() { return {A.data(), B.data()}; }
};

template <class Real>
oracle::Dam<Real> random_dam(std::size_t H, std::size_t L, double eta, double std, std::uint32_t seed) {
  std::vector<double> A(L * H * L), B(H * L);
  fill_normal(A, std, seed, "A");
  fill_normal(B, std, seed, "B");
  return {H, L, static_cast<Real>(eta), {A.begin(), A.end()}, {B.begin(), B.end()}};
}

Bits random_bits(std::size_t rows, std::size_t length, std::uint32_t seed) {
  const auto table = SequenceTable::random(seed, 0, static_cast<std::int64_t>(rows), static_cast<std::int64_t>(length));
  const auto flat = table.unpack_all();
  Bits bits;
  for (std::size_t r = 0; r < rows; ++r)
    bits.emplace_back(flat.begin() + static_cast<std::ptrdiff_t>(r * length), flat.begin() + static_cast<std::ptrdiff_t>((r + 1) * length));
  return bits;
}

template <class Real>
struct Measured {
  double loss, accuracy;
  Weights<Real> gradient;
  std::vector<double> logits;  // (B, L - first)
};

/// What the product says of rows of equal weight. For retrieval the rows are the memory's rows `index`.
template <class Real>
Measured<Real> measure(const oracle::Dam<Real>& dam, const Bits& slots, const Bits& rows, std::int64_t first, DamLoss kind,
                       const std::vector<std::size_t>& index = {}, int threads = 1) {
  const auto L = static_cast<std::int64_t>(dam.L);
  const bool retrieval = kind == DamLoss::retrieval;
  const DamShape shape{static_cast<std::int64_t>(dam.H), L, dam.eta, kind == DamLoss::clamped, retrieval};
  const auto table = table_of(retrieval ? slots : rows, dam.L);
  std::vector<std::int32_t> drawn(rows.size());
  std::iota(drawn.begin(), drawn.end(), 0);
  if (retrieval) drawn.assign(index.begin(), index.end());
  const auto cells = cells_of_batch(table, drawn, Sharing::prefixes, first);
  const Memory memory(slots);
  std::vector<StoredSequence> each;
  for (std::int64_t rank = 0; rank < table.num_sequences(); ++rank) each.push_back({table.row(rank).data(), 1});
  const std::span<const StoredSequence> stored = retrieval ? each : memory.stored;

  const Weights<Real> weights{dam.A_logits, dam.B_logits};
  DamRetrieval<Real> op(shape, threads);
  Measured<Real> measured;
  for (int repeat = 0; repeat < 2; ++repeat) {  // a second call must not see the first
    measured.gradient = {std::vector<Real>(weights.A.size()), std::vector<Real>(weights.B.size())};
    const auto result = op.gradient(weights.view(), measured.gradient.mutable_view(), stored, cells, table);
    measured.loss = result.loss;
    measured.accuracy = result.accuracy;
  }
  const auto P = cells.num_positions();
  if (retrieval) {
    std::vector<Real> loss(static_cast<std::size_t>(cells.num_rows() * P)), accuracy(loss.size());
    op.identify(weights.view(), stored, cells, table, loss.data(), accuracy.data());
    double mean_loss = 0, mean_accuracy = 0;
    for (std::int64_t u = 0; u < cells.num_rows(); ++u) {
      for (std::int64_t c = 0; c < P; ++c) {
        const auto weight = cells.row_weight[static_cast<std::size_t>(u)] / static_cast<double>(P);
        mean_loss += weight * loss[static_cast<std::size_t>(u * P + c)];
        mean_accuracy += weight * accuracy[static_cast<std::size_t>(u * P + c)];
      }
    }
    EXPECT_NEAR(mean_loss, measured.loss, 1e-6 * std::abs(measured.loss) + 1e-6);
    EXPECT_NEAR(mean_accuracy, measured.accuracy, 1e-6);
    return measured;
  }
  std::vector<Real> logits(static_cast<std::size_t>(cells.num_cells()));
  op.logits(weights.view(), stored, cells, table, logits.data());
  measured.logits.resize(rows.size() * static_cast<std::size_t>(P));
  for (std::int64_t u = 0; u < cells.num_rows(); ++u) {
    for (std::int64_t c = 0; c < P; ++c)
      measured.logits[static_cast<std::size_t>(cells.ranks[static_cast<std::size_t>(u)] * P + c)] =
          logits[static_cast<std::size_t>(cells.cell_of[static_cast<std::size_t>(u * P + c)])];
  }
  return measured;
}

double probability_of(double logit) { return logit > 0 ? 1 / (1 + std::exp(-logit)) : std::exp(logit) / (1 + std::exp(logit)); }

Bits bits_in(const Safetensors& file, const std::string& name, std::size_t length) {
  const auto flat = file.get<std::int64_t>(name);
  Bits rows;
  for (std::size_t i = 0; i < flat.size(); i += length)
    rows.emplace_back(flat.begin() + static_cast<std::ptrdiff_t>(i), flat.begin() + static_cast<std::ptrdiff_t>(i + length));
  return rows;
}

/// body(file, dam, length, queue, rows) of every golden case.
template <class Body>
void for_golden(const Body& body) {
  const auto cases = golden_cases("dam");
  ASSERT_FALSE(cases.empty());
  for (const auto& entry : cases) {
    SCOPED_TRACE(entry.at("name"));
    const auto file = read_golden(entry);
    const std::size_t L = entry.at("L"), H = entry.at("H");
    const auto A = file.get<double>("weight.A_logits"), B = file.get<double>("weight.B_logits");
    const oracle::Dam<double> dam{H, L, entry.at("eta"), {A.begin(), A.end()}, {B.begin(), B.end()}};
    body(file, dam, bits_in(file, "queue", L), bits_in(file, "bits", L));
  }
}

TEST(DamRetrieval, OracleAndOpGiveTheGoldenVectors) {
  for_golden([](const Safetensors& file, const oracle::Dam<double>& dam, const Bits& queue, const Bits& rows) {
    for (const auto kind : {DamLoss::exact, DamLoss::clamped}) {
      for (const std::size_t first : {0, 1}) {
        const auto name = fmt::format("{}.from_{}.", kind == DamLoss::exact ? "exact" : "clamped", first);
        const auto expected = oracle::answer(dam, queue, rows, first, kind);
        expect_golden(expected.probability, file, "probability");
        expect_golden(expected.loss_per_position, file, name.substr(0, name.find('.')) + ".loss_per_position");
        expect_golden({&expected.loss, 1}, file, name + "loss");
        expect_golden(expected.dA_logits, file, name + "grad.A_logits");
        expect_golden(expected.dB_logits, file, name + "grad.B_logits");
        if (queue.empty()) continue;  // the model's business
        const auto measured = measure(dam, queue, rows, static_cast<std::int64_t>(first), kind);
        std::vector<double> probability;
        const auto P = dam.L - first;
        for (std::size_t b = 0; b < rows.size(); ++b) {
          for (std::size_t n = 0; n < dam.L; ++n)
            probability.push_back(n < first ? expected.probability[b * dam.L] : probability_of(measured.logits[b * P + n - first]));
        }
        expect_golden(probability, file, "probability");
        expect_golden({&measured.loss, 1}, file, name + "loss");
        expect_golden(measured.gradient.A, file, name + "grad.A_logits");
        expect_golden(measured.gradient.B, file, name + "grad.B_logits");
      }
    }
  });
}

TEST(DamRetrieval, GoldenRetrieval) {
  int cases = 0;
  for_golden([&](const Safetensors& file, const oracle::Dam<double>& dam, const Bits&, const Bits&) {
    if (!file.contains("retrieval.table")) return;
    ++cases;
    const auto table = bits_in(file, "retrieval.table", dam.L);
    const auto flat = file.get<std::int64_t>("retrieval.index");
    const std::vector<std::size_t> index(flat.begin(), flat.end());
    Bits rows;
    for (const auto i : index) rows.push_back(table[i]);
    const auto expected = oracle::answer(dam, table, rows, 1, DamLoss::retrieval, index);
    const auto measured = measure(dam, table, rows, 1, DamLoss::retrieval, index);
    for (const auto loss : {expected.loss, measured.loss}) expect_golden({&loss, 1}, file, "retrieval.loss");
    for (const auto accuracy : {expected.accuracy, measured.accuracy}) expect_golden({&accuracy, 1}, file, "retrieval.accuracy");
    for (const auto* gradient : {&expected.dA_logits, &measured.gradient.A}) expect_golden(*gradient, file, "retrieval.grad.A_logits");
    for (const auto* gradient : {&expected.dB_logits, &measured.gradient.B}) expect_golden(*gradient, file, "retrieval.grad.B_logits");
  });
  EXPECT_GE(cases, 2);
}

/// Shapes with every edge: one head, two bits, one row, one stored sequence, more rows than a block, words and patterns that do not fit.
struct Shape {
  std::size_t H, L, rows, slots, distinct;
  double eta, std;
};
const Shape kShapes[] = {{1, 2, 1, 1, 1, 1, 1},         {3, 5, 4, 9, 5, 10, 1},    {2, 7, 40, 100, 20, 2, .5},
                         {11, 50, 5, 350, 300, 10, .3}, {5, 64, 9, 40, 40, 10, 1}, {4, 70, 5, 150, 140, 5, 1},
                         {2, 200, 3, 30, 30, 10, 1},    {1, 33, 17, 1, 1, 10, 1},  {8, 20, 20, 300, 256, 10, .1}};

/// Some rows are stored, some are not; some slots hold the same.
std::pair<Bits, Bits> data_of(const Shape& shape, std::uint32_t seed) {
  const auto pool = random_bits(shape.distinct + 3, shape.L, seed);
  Bits slots, rows;
  for (std::size_t m = 0; m < shape.slots; ++m) slots.push_back(pool[(m * m + m / 3) % shape.distinct]);
  for (std::size_t b = 0; b < shape.rows; ++b) rows.push_back(pool[(5 * b + 1) % pool.size()]);
  return {slots, rows};
}

double norm(std::span<const double> a) { return std::sqrt(std::inner_product(a.begin(), a.end(), a.begin(), 0.0)); }

template <class Real>
double distance(const std::vector<Real>& a, const std::vector<double>& b) {
  std::vector<double> difference;
  for (std::size_t i = 0; i < b.size(); ++i) difference.push_back(static_cast<double>(a[i]) - b[i]);
  return norm(difference);
}

/// Every kind of loss; `error`, relative, grows with the scores. Returns the largest loss at a position.
double expect_oracle(const Shape& shape, double error) {
  double largest = 0;
  for (const auto kind : {DamLoss::exact, DamLoss::clamped, DamLoss::retrieval}) {
    SCOPED_TRACE(fmt::format("H {} L {} U {} kind {}", shape.H, shape.L, shape.distinct, static_cast<int>(kind)));
    auto [slots, rows] = data_of(shape, 3);
    std::vector<std::size_t> index;
    if (kind == DamLoss::retrieval) {
      for (std::size_t b = 0; b < rows.size(); ++b) index.push_back(5 * b % slots.size()), rows[b] = slots[index[b]];
    }
    const std::int64_t first = kind == DamLoss::exact ? 0 : 1;
    const auto dam = random_dam<double>(shape.H, shape.L, shape.eta, shape.std, 7);
    const auto expected = oracle::answer(dam, slots, rows, static_cast<std::size_t>(first), kind, index);
    largest = std::max(largest, *std::max_element(expected.loss_per_position.begin(), expected.loss_per_position.end()));
    for (const int threads : {1, 3}) {
      const auto measured = measure(dam, slots, rows, first, kind, index, threads);
      EXPECT_NEAR(measured.loss, expected.loss, error * std::max(1.0, expected.loss));
      EXPECT_NEAR(measured.accuracy, expected.accuracy, 1e-12);
      EXPECT_LE(distance(measured.gradient.A, expected.dA_logits), error * norm(expected.dA_logits) + 1e-15);
      EXPECT_LE(distance(measured.gradient.B, expected.dB_logits), error * norm(expected.dB_logits) + 1e-15);
    }
  }
  return largest;
}

TEST(DamRetrieval, EqualsTheOracle) {
  for (const auto& shape : kShapes) expect_oracle(shape, 1e-12);
}

TEST(DamRetrieval, EqualsTheOracleWhereProbabilitiesUnderflow) {
  const double largest = expect_oracle({100, 20, 6, 60, 40, 100, 8}, 1e-10);
  EXPECT_GT(largest, 1000);  // exp(-745) is the last that is not 0
  EXPECT_LT(largest, 1e5);
}

TEST(DamRetrieval, Float32ErrsAtMostTwiceAsMuchAsThePlainForm) {
  double plain = 0, fast = 0;
  for (const auto& shape : kShapes) {
    const auto [slots, rows] = data_of(shape, 4);
    auto exact = random_dam<double>(shape.H, shape.L, shape.eta, shape.std, 8);
    const auto rounded = random_dam<float>(shape.H, shape.L, shape.eta, shape.std, 8);
    exact.A_logits.assign(rounded.A_logits.begin(), rounded.A_logits.end());
    exact.B_logits.assign(rounded.B_logits.begin(), rounded.B_logits.end());
    const auto expected = oracle::answer(exact, slots, rows, 1, DamLoss::exact);
    const auto by_loops = oracle::answer(rounded, slots, rows, 1, DamLoss::exact);
    const auto measured = measure(rounded, slots, rows, 1, DamLoss::exact);
    const auto scale = norm(expected.dA_logits) + 1e-12;
    plain += distance(by_loops.dA_logits, expected.dA_logits) / scale;
    fast += distance(measured.gradient.A, expected.dA_logits) / scale;
    EXPECT_NEAR(measured.loss, expected.loss, 2 * std::abs(by_loops.loss - expected.loss) + 2e-6 * expected.loss + 1e-7);
  }
  EXPECT_LE(fast, 2 * plain);
}

TEST(DamRetrieval, GradientByCentralDifferences) {
  const Shape shape{2, 6, 5, 20, 12, 5, 1};
  const auto [slots, rows] = data_of(shape, 5);
  auto dam = random_dam<double>(shape.H, shape.L, shape.eta, shape.std, 9);
  const auto gradient = measure(dam, slots, rows, 1, DamLoss::exact).gradient;
  const auto check = [&](std::vector<double>& weights, const std::vector<double>& slopes) {
    for (std::size_t i = 0; i < weights.size(); ++i) {
      const double value = weights[i], h = 1e-5;
      weights[i] = value + h;
      const double above = measure(dam, slots, rows, 1, DamLoss::exact).loss;
      weights[i] = value - h;
      const double below = measure(dam, slots, rows, 1, DamLoss::exact).loss;
      weights[i] = value;
      EXPECT_NEAR(slopes[i], (above - below) / (2 * h), 1e-8);
    }
  };
  check(dam.A_logits, gradient.A);
  check(dam.B_logits, gradient.B);
}

TEST(DamRetrieval, LawsOfTheMemory) {
  const Shape shape{3, 12, 8, 60, 25, 4, 1};
  auto [slots, rows] = data_of(shape, 6);
  const auto dam = random_dam<double>(shape.H, shape.L, shape.eta, shape.std, 10);
  const auto logits = measure(dam, slots, rows, 0, DamLoss::exact).logits;
  Bits permuted(slots.rbegin(), slots.rend()), negated = slots, negated_rows = rows;
  for (auto* bits : {&negated, &negated_rows}) {
    for (auto& row : *bits) {
      for (auto& bit : row) bit = 1 - bit;
    }
  }
  const auto again = measure(dam, permuted, rows, 0, DamLoss::exact).logits;
  const auto mirrored = measure(dam, negated, negated_rows, 0, DamLoss::exact).logits;
  auto flat = dam;
  flat.eta = 0;
  const auto shares = measure(flat, slots, rows, 0, DamLoss::exact).logits;
  for (std::size_t i = 0; i < logits.size(); ++i) {
    EXPECT_NEAR(again[i], logits[i], 1e-12);
    EXPECT_NEAR(mirrored[i], -logits[i], 1e-12);
    double ones = 0;
    for (const auto& slot : slots) ones += slot[i % shape.L];
    EXPECT_NEAR(probability_of(shares[i]), ones / static_cast<double>(slots.size()), 1e-14);
  }
}

TEST(DamRetrieval, OneHotHeadsGiveThePosteriorOfABinarySymmetricChannel) {
  const std::size_t L = 8;
  const double eta = 0.7, flip = 1 / (1 + std::exp(2 * eta));
  const auto [slots, rows] = data_of({L, L, 6, 20, 9, eta, 1}, 7);
  auto dam = random_dam<double>(L, L, eta, 0, 0);
  for (std::size_t h = 0; h < L; ++h) {
    dam.B_logits[h * L + h] = 200;
    for (std::size_t n = h + 1; n < L; ++n) dam.A_logits[(n * L + h) * L + h] = 200;
  }
  // with n bits revealed only n heads may look at them: the others look elsewhere in A, so make them vote equally for every memory
  for (std::size_t n = 1; n + 1 < L; n += 3) {
    auto only = dam;
    only.H = n;
    only.A_logits.clear();
    only.B_logits.assign(dam.B_logits.begin(), dam.B_logits.begin() + static_cast<std::ptrdiff_t>(n * L));
    for (std::size_t row = 0; row < L; ++row) {
      for (std::size_t h = 0; h < n; ++h)
        only.A_logits.insert(only.A_logits.end(), dam.A_logits.begin() + static_cast<std::ptrdiff_t>((row * L + h) * L),
                             dam.A_logits.begin() + static_cast<std::ptrdiff_t>((row * L + h + 1) * L));
    }
    const auto logits = measure(only, slots, rows, 0, DamLoss::exact).logits;
    for (std::size_t b = 0; b < rows.size(); ++b) {
      double mass[2] = {0, 0};
      for (const auto& slot : slots) {
        double likelihood = 1;
        for (std::size_t i = 0; i < n; ++i) likelihood *= slot[i] == rows[b][i] ? 1 - flip : flip;
        mass[slot[n]] += likelihood;
      }
      EXPECT_NEAR(probability_of(logits[b * L + n]), mass[1] / (mass[0] + mass[1]), 1e-14);
    }
  }
}

TEST(DamRetrieval, EdgesAreExact) {
  const Bits ones{{1, 1, 1, 1}}, mixed{{1, 0, 1, 1}, {0, 0, 1, 0}};
  const auto dam = random_dam<double>(2, 4, 3, 1, 1);
  // one stored sequence: P is 0 or 1, whatever the cue
  const auto one = measure(dam, ones, mixed, 0, DamLoss::exact);
  for (const auto logit : one.logits) EXPECT_EQ(logit, std::numeric_limits<double>::infinity());
  EXPECT_EQ(one.loss, 100 * 4 / 8.0);
  EXPECT_EQ(one.accuracy, 4 / 8.0);
  EXPECT_DOUBLE_EQ(measure(dam, ones, mixed, 0, DamLoss::clamped).loss,
                   (4 * std::log1p(std::exp(-13.815509557963774)) + 4 * (13.815509557963774 + std::log1p(std::exp(-13.815509557963774)))) / 8);
  for (const auto slope : one.gradient.A) EXPECT_EQ(slope, 0);
  for (const auto slope : one.gradient.B) EXPECT_EQ(slope, 0);
  // nothing revealed, as many ones as zeros in the first bit: half right
  const auto tie = measure(dam, {{1, 0, 0, 0}, {0, 1, 1, 1}, {0, 1, 1, 1}, {1, 1, 0, 0}}, {{1, 0, 0, 0}}, 0, DamLoss::exact);
  EXPECT_EQ(tie.logits[0], 0);
  // equal heads, uniform in both: sums of two mirrored memories tie at every n in retrieval, so that half is named right
  auto uniform = random_dam<double>(2, 4, 1, 0, 1);
  EXPECT_DOUBLE_EQ(measure(uniform, {{1, 0, 0, 1}, {0, 1, 1, 0}}, {{1, 0, 0, 1}}, 1, DamLoss::retrieval, {0}).accuracy, 0.5);
}

TEST(DamRetrieval, LargeScoresStayFinite) {
  const Shape shape{100, 40, 12, 300, 200, 100, 3};  // scores to 1e4
  const auto [slots, rows] = data_of(shape, 8);
  const auto dam = random_dam<float>(shape.H, shape.L, shape.eta, shape.std, 11);
  for (const auto kind : {DamLoss::exact, DamLoss::clamped}) {
    const auto measured = measure(dam, slots, rows, 0, kind);
    EXPECT_TRUE(std::isfinite(measured.loss) && std::isfinite(measured.accuracy));
    for (const auto value : measured.gradient.A) ASSERT_TRUE(std::isfinite(value));
    for (const auto value : measured.gradient.B) ASSERT_TRUE(std::isfinite(value));
  }
}

TEST(DamRetrieval, RefusesSizesThatMakeNoSense) {
  EXPECT_THROW(DamRetrieval<float>({0, 4, 1}), std::invalid_argument);
  EXPECT_THROW(DamRetrieval<float>({1, 1, 1}), std::invalid_argument);
  EXPECT_THROW(DamRetrieval<float>({1, 4, -1}), std::invalid_argument);
}

}  // namespace
}  // namespace mnemo
