#include "models/ops/one_layer_step.h"

#include "core/philox.h"
#include "core/zipf.h"
#include "golden.h"
#include "models/ops/one_layer_oracle.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cstdlib>

namespace mnemo {
namespace {

using oracle::Tensors;

/// Rows of bits with weights, as the oracle and as the step take them.
struct Problem {
  std::vector<std::vector<int>> bits;  // (B, L), as drawn
  std::vector<double> row_weight;
  SequenceTable table;
  Cells cells;
  std::vector<std::size_t> cell_row;  // row of `bits` to each row of `cells`
};

Problem make_problem(std::vector<std::vector<int>> bits, std::vector<double> row_weight, Sharing sharing = Sharing::prefixes) {
  std::vector<std::uint8_t> flat;
  for (const auto& row : bits) flat.insert(flat.end(), row.begin(), row.end());
  auto table = SequenceTable::from_array(view_of(flat.data(), {static_cast<std::int64_t>(bits.size()), static_cast<std::int64_t>(bits[0].size())}));
  std::vector<std::int32_t> ranks(table.order().begin(), table.order().end());
  std::vector<double> weight;
  std::vector<std::size_t> cell_row;
  for (const auto rank : ranks) {
    weight.push_back(row_weight[static_cast<std::size_t>(rank)]);
    cell_row.push_back(static_cast<std::size_t>(rank));
  }
  auto cells = cells_of_rows(table, std::move(ranks), weight, sharing);
  return {std::move(bits), std::move(row_weight), std::move(table), std::move(cells), std::move(cell_row)};
}

template <class Real>
struct Answer {
  double loss = 0, accuracy = 0;
  std::vector<double> logits;  // (B, L-1), rows as drawn
  Tensors<Real> gradient;
};

/// The step's answer; nothing where its guard refuses.
template <class Real>
std::optional<Answer<Real>> answer_of(const OneLayerShape& shape, const Tensors<Real>& weights, const Problem& problem, int threads = 1,
                                      bool skip_dead_units = true) {
  OneLayerStep<Real> step(shape, threads, skip_dead_units);
  Answer<Real> answer;
  const auto pointers = oracle::pointers<const Real>(weights, shape);
  for (int repeat = 0; repeat < 2; ++repeat) {  // a second call must not see the first
    answer.gradient = oracle::zeros<Real>(shape);
    const auto result = step.gradient(pointers, oracle::pointers<Real>(answer.gradient, shape), problem.cells, problem.table);
    if (!result) return std::nullopt;
    answer.loss = result->loss;
    answer.accuracy = result->accuracy;
  }
  std::vector<Real> logits(static_cast<std::size_t>(problem.cells.num_cells()));
  EXPECT_TRUE(step.logits(pointers, problem.cells, problem.table, logits.data()));
  const auto positions = static_cast<std::size_t>(shape.length - 1);
  answer.logits.resize(problem.bits.size() * positions);
  for (std::size_t u = 0; u < problem.cell_row.size(); ++u) {
    for (std::size_t i = 0; i < positions; ++i) {
      answer.logits[problem.cell_row[u] * positions + i] = logits[static_cast<std::size_t>(problem.cells.cell_of[u * positions + i])];
    }
  }
  return answer;
}

template <class Real>
std::vector<double> widened(const std::vector<Real>& values) {
  return {values.begin(), values.end()};
}

double largest(const std::vector<double>& values) {
  double result = 0;
  for (const auto v : values) result = std::max(result, std::abs(v));
  return result;
}

double distance(const std::vector<double>& a, const std::vector<double>& b) {
  double result = 0;
  for (std::size_t i = 0; i < a.size(); ++i) result += (a[i] - b[i]) * (a[i] - b[i]);
  return std::sqrt(result);
}

void expect_close(const std::vector<double>& actual, const std::vector<double>& expected, double relative, const std::string& what,
                  double floor = 1e-15) {
  ASSERT_EQ(actual.size(), expected.size()) << what;
  double worst = 0;
  for (std::size_t i = 0; i < actual.size(); ++i) worst = std::max(worst, std::abs(actual[i] - expected[i]));
  EXPECT_LE(worst, relative * largest(expected) + floor) << what << " of size " << largest(expected);
}

Tensors<double> random_weights(const OneLayerShape& shape, std::uint32_t seed, double std, double attention_scale = 1) {
  auto weights = oracle::zeros<double>(shape);
  for (auto& [name, values] : weights) {
    fill_normal(values, std, seed, name);
    if (name == "ln_f.weight") {
      for (auto& v : values) v += 1;
    }
    if (name.starts_with("c_attn")) {
      for (auto& v : values) v *= attention_scale;
    }
  }
  return weights;
}

std::vector<std::vector<int>> random_bits(std::size_t rows, std::int64_t length, std::uint32_t seed) {
  const auto table = SequenceTable::random(seed, 0, static_cast<std::int64_t>(rows), length);
  std::vector<std::vector<int>> bits(rows);
  for (std::size_t r = 0; r < rows; ++r) {
    for (std::int64_t i = 0; i < length; ++i) bits[r].push_back(table.bit(static_cast<std::int64_t>(r), i));
  }
  return bits;
}

// ---- golden vectors: computed by an implementation that shares nothing with this one

TEST(OneLayerStepGolden, EveryCase) {
  const auto cases = golden_cases("one_layer_attention");
  ASSERT_FALSE(cases.empty());
  std::size_t answered = 0;
  for (const auto& entry : cases) {
    const OneLayerShape shape{entry.at("H"), entry.at("F"), entry.at("D"), entry.at("layers"), entry.at("L")};
    const auto golden = read_golden(entry);
    const auto values_of = [&](const std::string& name) {
      const auto values = golden.get<double>(name);
      return std::vector<double>(values.begin(), values.end());
    };
    auto weights = oracle::zeros<double>(shape);
    for (auto& [name, values] : weights) values = values_of("weight." + name);
    const auto flat = golden.get<std::int64_t>("bits");
    std::vector<std::vector<int>> bits;
    for (auto at = flat.begin(); at != flat.end(); at += shape.length) bits.emplace_back(at, at + shape.length);
    for (const auto sharing : {Sharing::prefixes, Sharing::none}) {
      for (const int threads : {1, 2, 3}) {
        const auto problem = make_problem(bits, values_of("row_weight"), sharing);
        const auto answer = answer_of(shape, weights, problem, threads);
        if (!answer) continue;  // scores that span more than the guard allows are for the plain form
        ++answered;
        expect_golden(std::vector{answer->loss}, golden, "loss");
        expect_golden(answer->logits, golden, "logits");
        for (const auto& [name, values] : answer->gradient) expect_golden(values, golden, "grad." + name);
      }
    }
  }
  const bool own_cases = std::getenv("MNEMO_GOLDEN") == nullptr;
  EXPECT_TRUE(!own_cases || answered == 6 * 3) << answered;  // the scores of our fourth span 2,900 nats
}

// ---- random shapes against the oracle, float64

struct Case {
  OneLayerShape shape;
  std::size_t rows;
  bool repeat = false;  // every row the same
  double attention_scale = 1;
};

class OneLayerStepShapes : public testing::TestWithParam<Case> {};

TEST_P(OneLayerStepShapes, EqualsOracle) {
  const auto& [shape, rows, repeat, attention_scale] = GetParam();
  const auto weights = random_weights(shape, 7, 0.3, attention_scale);
  auto bits = random_bits(rows, shape.length, 3);
  if (repeat) std::fill(bits.begin(), bits.end(), bits[0]);
  std::vector<double> row_weight(rows);
  for (std::size_t r = 0; r < rows; ++r) row_weight[r] = static_cast<double>(r + 1) / static_cast<double>(rows * (rows + 1) / 2);
  auto gradient = oracle::zeros<double>(shape);
  const auto expected = oracle::step(shape, weights, bits, row_weight, gradient);
  for (const auto sharing : {Sharing::prefixes, Sharing::none}) {
    const auto problem = make_problem(bits, row_weight, sharing);
    for (const bool skip : {true, false}) {
      for (const int threads : {1, 2, 5}) {
        const auto answer = answer_of(shape, weights, problem, threads, skip);
        ASSERT_TRUE(answer);
        EXPECT_NEAR(answer->loss, expected.loss, 1e-12 * expected.loss);
        EXPECT_NEAR(answer->accuracy, expected.accuracy, 1e-12);
        expect_close(answer->logits, expected.logits, 1e-12, "logits");
        double scale = 0;
        for (const auto& [name, values] : gradient) scale = std::max(scale, largest(values));
        for (const auto& [name, values] : gradient) expect_close(answer->gradient.at(name), values, 1e-12, name, 1e-14 * scale);
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, OneLayerStepShapes,
                         testing::Values(Case{{1, 1, 1, 1, 2}, 1}, Case{{1, 4, 4, 1, 2}, 3}, Case{{1, 1, 3, 2, 5}, 4}, Case{{3, 1, 5, 3, 9}, 8},
                                         Case{{2, 5, 7, 3, 12}, 20}, Case{{1, 16, 16, 3, 40}, 30}, Case{{4, 16, 64, 3, 20}, 32},
                                         Case{{2, 24, 33, 4, 17}, 25}, Case{{4, 8, 24, 2, 70}, 12}, Case{{1, 13, 40, 8, 11}, 9},
                                         Case{{2, 8, 16, 3, 20}, 6, true}, Case{{1, 16, 16, 3, 9}, 1}, Case{{9, 3, 130, 2, 8}, 300},
                                         Case{{2, 64, 128, 3, 10}, 150}, Case{{1, 16, 16, 3, 6}, 3000}, Case{{2, 8, 16, 3, 30}, 40, false, 6},
                                         Case{{1, 100, 9, 5, 130}, 3}, Case{{2, 4, 200, 1, 3}, 700}));

TEST(OneLayerStep, GradientIsThatOfItsLossByCentralDifferences) {
  const OneLayerShape shape{2, 5, 7, 3, 12};
  auto weights = random_weights(shape, 11, 0.3, 2);
  const auto bits = random_bits(9, shape.length, 5);
  const auto problem = make_problem(bits, std::vector<double>(bits.size(), 1.0 / static_cast<double>(bits.size())));
  const auto gradient = answer_of(shape, weights, problem)->gradient;
  constexpr double kStep = 1e-5;
  for (auto& [name, values] : weights) {
    for (std::size_t i = 0; i < values.size(); i += 1 + values.size() / 7) {
      const double middle = values[i];
      values[i] = middle + kStep;
      const double above = answer_of(shape, weights, problem)->loss;
      values[i] = middle - kStep;
      const double below = answer_of(shape, weights, problem)->loss;
      values[i] = middle;
      EXPECT_NEAR(gradient.at(name)[i], (above - below) / (2 * kStep), 1e-9) << name << " " << i;
    }
  }
}

// ---- float32: at most twice the error of the plain form, by the norm of each tensor, over spans of the attention
// tables

/// Largest difference of two scores in a row, in nats.
double span_of(const OneLayerShape& shape, const Tensors<double>& weights) {
  const auto C = static_cast<std::size_t>(shape.heads * shape.head_dim), F = static_cast<std::size_t>(shape.head_dim);
  std::vector<std::vector<double>> tokens;
  for (std::size_t t = 0; t < 2 * static_cast<std::size_t>(shape.length - 1); ++t) {
    std::vector<double> x(C);
    for (std::size_t c = 0; c < C; ++c) x[c] = weights.at("wte.weight")[t % 2 * C + c] + weights.at("wpe.weight")[t / 2 * C + c];
    tokens.push_back(oracle::linear(weights.at("c_attn.weight"), weights.at("c_attn.bias"), x));
  }
  double span = 0;
  for (std::size_t h = 0; h < C / F; ++h) {
    for (std::size_t i = 0; i < tokens.size(); ++i) {
      double low = 0, high = 0;
      for (std::size_t j = 0; j <= i / 2 * 2 + 1; ++j) {
        if (j / 2 == i / 2 && j != i) continue;
        double score = 0;
        for (std::size_t f = h * F; f < (h + 1) * F; ++f) score += tokens[i][f] * tokens[j][C + f];
        score /= std::sqrt(static_cast<double>(F));
        low = j == 0 ? score : std::min(low, score);
        high = j == 0 ? score : std::max(high, score);
      }
      span = std::max(span, high - low);
    }
  }
  return span;
}

/// Weights whose scores span `nats`, in numbers that float32 holds.
Tensors<double> weights_of_span(const OneLayerShape& shape, double nats, std::uint32_t seed) {
  auto weights = random_weights(shape, seed, 0.3);
  const auto half = 2 * static_cast<std::size_t>(shape.heads * shape.head_dim);
  const double factor = std::sqrt(nats / span_of(shape, weights));
  for (std::size_t i = 0; i < half * half / 2; ++i) weights["c_attn.weight"][i] *= factor;  // query and key
  for (std::size_t i = 0; i < half; ++i) weights["c_attn.bias"][i] *= factor;
  return oracle::cast<double>(oracle::cast<float>(weights));
}

TEST(OneLayerStep, Float32ErrorIsThatOfThePlainForm) {
  for (const OneLayerShape shape : {OneLayerShape{2, 8, 16, 3, 24}, OneLayerShape{1, 16, 16, 3, 24}, OneLayerShape{2, 32, 64, 3, 16}}) {
    for (const double nats : {0.0, 7.0, 20.0, 50.0, 100.0}) {
      std::map<std::string, std::array<double, 3>> squares;  // error, the plain form's, size; over seeds
      for (std::uint32_t seed = 0; seed < 6; ++seed) {
        const auto weights = weights_of_span(shape, nats, seed);
        const auto bits = random_bits(48, shape.length, seed);
        const std::vector<double> row_weight(bits.size(), 1.0 / static_cast<double>(bits.size()));
        auto exact = oracle::zeros<double>(shape);
        const auto truth = oracle::step(shape, weights, bits, row_weight, exact);
        auto plain = oracle::zeros<float>(shape);
        const auto narrow = oracle::cast<float>(weights);
        const auto plain_outcome = oracle::step(shape, narrow, bits, row_weight, plain);
        const auto answer = answer_of(shape, narrow, make_problem(bits, row_weight));
        if (!answer) {
          EXPECT_GE(nats, 66) << "the guard refused a span below its limit";
          continue;
        }
        const auto compare = [&](const std::string& name, const auto& actual, const auto& plain_values, const auto& expected) {
          auto& sums = squares[name];
          sums[0] += std::pow(distance(actual, expected), 2);
          sums[1] += std::pow(distance(plain_values, expected), 2);
          sums[2] += std::pow(distance(expected, std::vector<double>(expected.size())), 2);
        };
        compare("logits", answer->logits, plain_outcome.logits, truth.logits);
        for (const auto& [name, values] : exact) compare(name, widened(answer->gradient.at(name)), widened(plain.at(name)), values);
      }
      for (const auto& [name, sums] : squares) {
        const auto what = fmt::format("H={} F={}, {} nats, {}: {:.2g} against {:.2g} of {:.2g}", shape.heads, shape.head_dim, nats, name,
                                      std::sqrt(sums[0]), std::sqrt(sums[1]), std::sqrt(sums[2]));
        EXPECT_LE(std::sqrt(sums[0]), 2 * std::sqrt(sums[1]) + 1e-15) << what;
        if (std::getenv("SHOW")) fmt::print("{:.2f} {}\n", std::sqrt(sums[0] / sums[1]), what);
      }
    }
  }
}

// ---- the guard

/// Scores of H = 1, F = 1, L = 3 that only the bits set: query 1, key +-s/2 for bit 1/0, so that rows that hold ones
/// only at position 0 see a token s nats above all others.
TEST(OneLayerStep, GuardActsAtItsLimit) {
  const OneLayerShape shape{1, 1, 4, 2, 3};
  const auto refused = [&](auto real, double nats) {
    using Real = decltype(real);
    auto weights = random_weights(shape, 2, 0.5);
    weights["wte.weight"] = {0, 0};
    weights["wpe.weight"] = {1, -1, 0};
    weights["c_attn.weight"] = {0, nats / 2, 1};  // key +nats/2 at position 0, -nats/2 at position 1, whatever the bits: a gap of 0
    weights["c_attn.bias"] = {1, 0, 0};
    const auto problem = make_problem({{0, 0, 1}, {0, 1, 0}, {1, 0, 1}, {1, 1, 1}}, {.25, .25, .25, .25});
    const bool level = answer_of(shape, oracle::cast<Real>(weights), problem).has_value();
    weights["wte.weight"] = {-.5, .5};
    weights["wpe.weight"] = {0, 0, 0};
    weights["c_attn.weight"] = {0, nats, 1};  // key by the bit: a row of zeros does not see the tokens `nats` above
    const bool by_bit = answer_of(shape, oracle::cast<Real>(weights), problem).has_value();
    EXPECT_TRUE(level) << nats;
    return !by_bit;
  };
  EXPECT_FALSE(refused(0.0F, 64.9));
  EXPECT_TRUE(refused(0.0F, 65.1));
  EXPECT_FALSE(refused(0.0, 649.9));
  EXPECT_TRUE(refused(0.0, 650.1));
}

TEST(OneLayerStep, RefusalLeavesTheGradientAlone) {
  const OneLayerShape shape{1, 4, 4, 1, 4};
  const auto weights = random_weights(shape, 2, 0.5, 1e4);
  const auto problem = make_problem(random_bits(4, 4, 1), {.25, .25, .25, .25});
  OneLayerStep<double> step(shape, 2);
  auto gradient = oracle::zeros<double>(shape);
  EXPECT_FALSE(
      step.gradient(oracle::pointers<const double>(weights, shape), oracle::pointers<double>(gradient, shape), problem.cells, problem.table));
  for (const auto& [name, values] : gradient) EXPECT_EQ(largest(values), 0) << name;
}

TEST(OneLayerStep, LastingAccuracyNearTheGuard) {
  const OneLayerShape shape{1, 8, 8, 2, 12};
  for (const double nats : {40.0, 64.0}) {
    auto weights = weights_of_span(shape, nats, 11);
    const auto bits = random_bits(32, shape.length, 9);
    const std::vector<double> row_weight(bits.size(), 1.0 / static_cast<double>(bits.size()));
    auto exact = oracle::zeros<double>(shape);
    const auto truth = oracle::step(shape, weights, bits, row_weight, exact);
    const auto answer = answer_of(shape, oracle::cast<float>(weights), make_problem(bits, row_weight));
    ASSERT_TRUE(answer);
    expect_close(answer->logits, truth.logits, 1e-4, "logits");
  }
}

TEST(OneLayerStep, RefusesImpossibleSizes) {
  EXPECT_THROW(OneLayerStep<float>({0, 4, 4, 1, 4}), std::invalid_argument);
  EXPECT_THROW(OneLayerStep<float>({1, 4, 4, 9, 4}), std::invalid_argument);
  EXPECT_THROW(OneLayerStep<float>({1, 4, 4, 1, 1}), std::invalid_argument);
}

}  // namespace
}  // namespace mnemo
