// What an evaluation measures beside loss and accuracy, against loops that say what is meant.

#include "core/loss.h"
#include "experiments/run/attention_measures.h"
#include "tests/testing_models.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cmath>

namespace mnemo {
namespace {

using torch::Tensor;

// ---- attention

OneLayerAttentionConfig two_heads() {
  OneLayerAttentionConfig config;
  config.heads = 2;
  config.head_dim = 3;
  return config;
}

/// Attention of one head of one sequence, entry by entry from the weights (MATHS 2).
std::vector<std::vector<double>> naive_attention(const Parameters& parameters, const OneLayerAttentionConfig& config, const SequenceTable& table,
                                                 std::int64_t rank, std::int64_t head) {
  const auto L = table.length(), C = config.width(), F = config.head_dim;
  const auto on_host = [&](const char* name) { return parameters[name].detach().cpu(); };
  const auto embedding = on_host("wte.weight"), positions = on_host("wpe.weight"), weights = on_host("c_attn.weight"),
             biases = on_host("c_attn.bias");
  const auto wte = embedding.accessor<double, 3>()[0], wpe = positions.accessor<double, 3>()[0];
  const auto W = weights.accessor<double, 3>()[0];
  const auto b = biases.accessor<double, 2>()[0];
  const auto project = [&](std::int64_t position, std::int64_t row) {
    double sum = b[row];
    for (std::int64_t c = 0; c < C; ++c) sum += W[row][c] * (wte[table.bit(rank, position)][c] + wpe[position][c]);
    return sum;
  };
  std::vector<std::vector<double>> maps;
  for (std::int64_t i = 0; i < L; ++i) {
    std::vector<double> row(static_cast<std::size_t>(L));
    double total = 0;
    for (std::int64_t j = 0; j <= i; ++j) {
      double score = 0;
      for (std::int64_t f = 0; f < F; ++f) score += project(i, head * F + f) * project(j, C + head * F + f);
      total += row[static_cast<std::size_t>(j)] = std::exp(score / std::sqrt(static_cast<double>(F)));
    }
    for (auto& weight : row) weight /= total;
    maps.push_back(row);
  }
  return maps;
}

/// Over the first n entries, both renormalised there.
double pearson(std::vector<double> a, std::vector<double> b, std::int64_t n) {
  for (auto* row : {&a, &b}) {
    row->resize(static_cast<std::size_t>(n));
    double sum = 0;
    for (const auto value : *row) sum += value;
    for (auto& value : *row) value = value / sum - 1.0 / static_cast<double>(n);
  }
  double ab = 0, aa = 0, bb = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    ab += a[i] * b[i];
    aa += a[i] * a[i];
    bb += b[i] * b[i];
  }
  return ab / std::sqrt(aa * bb);
}

TEST(Attention, MapsAreThoseOfTheFormula) {
  const auto config = two_heads();
  const auto model = lively_model(config, 7, torch::kFloat64);
  const auto table = SequenceTable::random(5, 0, 3, 7);
  auto bits = table.unpack_all();
  const auto maps = model->attention_maps(torch::from_blob(bits.data(), {1, 3, 7}, torch::kUInt8).to(test_device()))[0][0].cpu();
  ASSERT_EQ(maps.sizes(), (torch::IntArrayRef{3, 2, 7, 7}));
  for (std::int64_t rank = 0; rank < 3; ++rank) {
    for (std::int64_t head = 0; head < 2; ++head) {
      const auto expected = naive_attention(model->parameters, config, table, rank, head);
      for (std::int64_t i = 0; i < 7; ++i) {
        for (std::int64_t j = 0; j < 7; ++j) {
          EXPECT_NEAR(maps[rank][head][i][j].item<double>(), expected[static_cast<std::size_t>(i)][static_cast<std::size_t>(j)], 1e-13);
        }
      }
    }
  }
}

TEST(Attention, MeasuresAreThoseOfADoubleLoop) {
  constexpr std::int64_t K = 5, L = 23, H = 2, S = kAttentionPositions;
  const auto config = two_heads();
  const auto model = lively_model(config, L, torch::kFloat64);
  const auto table = SequenceTable::random(6, 0, K, L);
  const std::vector<std::int32_t> ranks{4, 0, 2};
  const auto measures = measure_attention(*model, table, ranks, {"decorrelation", "attn_reps", "vertical_bars"});
  std::vector<std::vector<std::vector<std::vector<double>>>> maps;  // [rank][head][i][j]
  for (const auto rank : ranks) {
    maps.emplace_back();
    for (std::int64_t head = 0; head < H; ++head) maps.back().push_back(naive_attention(model->parameters, config, table, rank, head));
  }
  const auto at = [](std::int64_t i) { return static_cast<std::size_t>(i); };
  const auto expect = [](float measured, double expected, bool is_defined) {
    if (is_defined)
      EXPECT_NEAR(measured, expected, 1e-6);
    else
      EXPECT_TRUE(std::isnan(measured));
  };
  for (std::int64_t i = 0; i < S; ++i) {
    const auto s = 5 * i;
    for (std::int64_t h = 0; h < H; ++h) {
      for (std::int64_t j = 0; j < S; ++j) {
        const auto t = 5 * j + 1;
        const bool is_defined = s > 0 && t > s && t < L;
        double mean = 0;
        for (std::size_t r = 0; r < maps.size() && is_defined; ++r) mean += pearson(maps[r][at(h)][at(s)], maps[r][at(h)][at(t)], s) / 3;
        expect(measures[2][at((h * S + i) * S + j)], mean, is_defined);
      }
      for (std::int64_t g = 0; g < H; ++g) {
        const bool is_defined = s > 0 && s < L;
        double mean = 0;
        for (std::size_t r = 0; r < maps.size() && is_defined; ++r) mean += pearson(maps[r][at(g)][at(s)], maps[r][at(h)][at(s)], s) / 3;
        expect(measures[0][at((i * H + g) * H + h)], mean, is_defined);
      }
    }
  }
  ASSERT_EQ(measures[1].size(), at(3 * H * L * L));
  for (std::size_t r = 0, n = 0; r < maps.size(); ++r) {
    for (const auto& head : maps[r]) {
      for (const auto& row : head) {
        for (const auto weight : row) EXPECT_NEAR(measures[1][n++], weight, 1e-6);
      }
    }
  }
}

TEST(Attention, ManySequencesAreMeasuredInBlocks) {
  const auto config = two_heads();
  const auto model = lively_model(config, 100, torch::kFloat64);
  const auto table = SequenceTable::random(6, 0, 260, 100);
  int blocks = 0;
  const auto measures = measure_attention(*model, table, strided_ranks(260, 1), {"vertical_bars", "attn_reps"}, [&] { ++blocks; });
  EXPECT_GE(blocks, 2);
  EXPECT_EQ(measures[1].size(), 256u * 2 * 100 * 100);
  for (std::size_t i = 0; i < measures[0].size(); ++i) {
    const auto s = 5 * (i / 20 % 20), t = 5 * (i % 20) + 1;
    EXPECT_EQ(std::isnan(measures[0][i]), s == 0 || t < s) << s << " " << t;
  }
}

TEST(Attention, UniformAttentionHasNoCorrelations) {
  auto config = two_heads();
  config.attention_init = "zero";
  const ModelConfig of_any_kind = config;
  const auto model = make_model({&of_any_kind, 1}, 23, torch::kFloat32, test_device());
  const auto table = SequenceTable::random(6, 0, 4, 23);
  for (const auto& measure : measure_attention(*model, table, strided_ranks(4, 1), {"vertical_bars", "decorrelation"})) {
    EXPECT_TRUE(std::all_of(measure.begin(), measure.end(), [](float value) { return std::isnan(value); }));
  }
}

// ---- by position

TEST(ByPosition, IsTheMeanOverTheRanksOfEachBin) {
  constexpr std::int64_t K = 130, L = 6, P = L - 1;
  const auto config = two_heads();
  const auto model = lively_model(config, L, torch::kFloat64);
  const auto table = SequenceTable::random(7, 0, K, L);
  const auto ranks = strided_ranks(K, 3);
  const auto scores = score(*model, table, ranks, {}, {/*by_position=*/true, 0});
  ASSERT_EQ(rank_bins(K), (std::vector<RankBin>{{0, 10}, {10, 100}, {100, 130}}));

  const TestBatch all(table);  // draws every rank once
  const auto logits = model->logits(all.rows(torch::kFloat64, Sharing::none)).view({K, P}).cpu();
  for (std::size_t bin = 0; bin < 3; ++bin) {
    for (std::int64_t p = 0; p < P; ++p) {
      double loss = 0, accuracy = 0, count = 0;
      for (const auto rank : ranks) {
        if (rank < rank_bins(K)[bin].first || rank >= rank_bins(K)[bin].second) continue;
        const double z = logits[rank][p].item<double>(), y = table.bit(rank, p + 1);
        loss += std::max(z, 0.0) - y * z + std::log1p(std::exp(-std::abs(z)));
        accuracy += (z > 0) == (y == 1);
        ++count;
      }
      EXPECT_NEAR(scores.loss_by_position[bin * P + static_cast<std::size_t>(p)], loss / count, 1e-6);
      EXPECT_NEAR(scores.accuracy_by_position[bin * P + static_cast<std::size_t>(p)], accuracy / count, 1e-6);
    }
  }
  const auto few = score(*model, table, std::vector<std::int32_t>{3}, {}, {true, 0});
  EXPECT_TRUE(std::isnan(few.loss_by_position[P]));  // no rank of the second bin
  EXPECT_TRUE(score(*model, table, ranks).loss_by_position.empty());
}

// ---- completion

/// Goes on as the first sequence of its table that begins with the prefix does; with a 0 where there is none.
class Recall : public Model {
 public:
  explicit Recall(SequenceTable known)
      : Model({}, Parameters({{"unused", "all", {1}, ParameterSpec::Init::zeros}}, 1, torch::kFloat32, torch::kCPU)), known_(std::move(known)) {}

  bool next(const std::vector<bool>& prefix) const {
    for (std::int64_t rank = 0; rank < known_.num_sequences(); ++rank) {
      std::size_t shared = 0;
      while (shared < prefix.size() && known_.bit(rank, static_cast<std::int64_t>(shared)) == prefix[shared]) ++shared;
      if (shared == prefix.size()) return known_.bit(rank, static_cast<std::int64_t>(shared));
    }
    return false;
  }
  std::unique_ptr<Model> replica(std::int64_t) const override { return nullptr; }
  Tensor logits(const CellBatch& rows) override {
    const auto& [cells, table] = rows.replicas()[0];
    auto logits_RN = torch::empty({1, cells->num_cells()});
    for (std::size_t n = 0; n < cells->row.size(); ++n) {
      std::vector<bool> prefix;
      for (std::int64_t i = 0; i <= cells->position[n]; ++i) prefix.push_back(table->bit(cells->ranks[static_cast<std::size_t>(cells->row[n])], i));
      logits_RN[0][static_cast<std::int64_t>(n)] = next(prefix) ? 3.0 : -3.0;
    }
    return logits_RN;
  }

 private:
  SequenceTable known_;
};

TEST(Completion, IsGreedyContinuationBitByBit) {
  constexpr std::int64_t K = 60, L = 9;
  const auto table = SequenceTable::random(8, 0, K, L);
  auto known_bits = table.unpack_all();
  Recall model(SequenceTable::from_array(view_of(known_bits.data(), {K / 2, L})));  // the first half of the table
  const auto ranks = strided_ranks(K, 1);
  for (const std::int64_t prefix : {1, 4, 8}) {
    const auto completed = score(model, table, ranks, {}, {false, prefix}).completed;
    std::int64_t exact = 0;
    for (const auto rank : ranks) {
      std::vector<bool> sequence;
      for (std::int64_t i = 0; i < prefix; ++i) sequence.push_back(table.bit(rank, i));
      while (std::ssize(sequence) < L) sequence.push_back(model.next(sequence));
      bool is_exact = true;
      for (std::int64_t i = 0; i < L; ++i) is_exact = is_exact && sequence[static_cast<std::size_t>(i)] == table.bit(rank, i);
      EXPECT_EQ(completed[static_cast<std::size_t>(rank)], is_exact) << "rank " << rank << ", prefix " << prefix;
      exact += is_exact;
    }
    EXPECT_GT(exact, 0);
    EXPECT_LT(exact, K);
  }
  EXPECT_TRUE(score(model, table, ranks).completed.empty());
}

}  // namespace
}  // namespace mnemo
