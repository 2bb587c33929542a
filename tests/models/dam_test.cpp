#include "models/dam.h"

#include "experiments/run/trainer.h"
#include "golden.h"
#include "models/memory_queue.h"
#include "testing_models.h"

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cmath>

namespace mnemo {
namespace {

using torch::Tensor;

std::unique_ptr<Model> make_dam(const DamConfig& config, std::int64_t length, torch::Dtype dtype = torch::kFloat64) {
  const ModelConfig any = config;
  return make_model({&any, 1}, length, dtype, torch::kCPU);
}

void set_weights(Model& dam, const Tensor& A_logits, const Tensor& B_logits) {
  torch::NoGradGuard no_grad;
  dam.parameters["A_logits"].copy_(A_logits.unsqueeze(0));
  dam.parameters["B_logits"].copy_(B_logits.unsqueeze(0));
}

Tensor golden_tensor(const Safetensors& file, const std::string& name) {
  const auto& array = file.at(name);
  return torch::from_blob(const_cast<std::byte*>(array.data), array.shape, array.dtype == Dtype::f64 ? torch::kFloat64 : torch::kInt64).clone();
}

SequenceTable table_of(const Tensor& bits) {
  const auto bytes = bits.to(torch::kUInt8).contiguous();
  return SequenceTable::from_array(view_of(bytes.data_ptr<std::uint8_t>(), bytes.sizes().vec()));
}

std::span<const double> span_of(const Tensor& tensor) { return {tensor.data_ptr<double>(), static_cast<std::size_t>(tensor.numel())}; }

/// The rows of `table` named by `drawn`, predicted as the model does.
struct Problem {
  SequenceTable table;
  Cells cells;

  Problem(const Model& dam, SequenceTable t, const std::vector<std::int32_t>& drawn)
      : table(std::move(t)), cells(cells_of_batch(table, drawn, Sharing::prefixes, dam.facts.first_predicted_bit)) {}
  CellBatch rows(torch::Dtype dtype = torch::kFloat64) const { return CellBatch({{&cells, &table}}, dtype, torch::kCPU); }
};

void expect_gradient(const Model& dam, const Safetensors& file, const std::string& prefix) {
  for (const auto* name : {"A_logits", "B_logits"}) expect_golden(span_of(dam.parameters[name].grad().contiguous()), file, prefix + "grad." + name);
}

/// As where the op does not run.
Losses gradient_by_blocks(Model& dam, const CellBatch& rows, std::int64_t max_scores) {
  dam.forms = {.kernels = false, .max_scores = max_scores};
  const auto losses = dam.gradient(rows);
  dam.forms = {};
  return losses;
}

/// The three ways to the loss and its gradient: autograd through the plain form over slots, blocks over distinct rows, the op.
template <class Check>
void in_every_form(Model& dam, const CellBatch& rows, const Check& check) {
  check(dam.plain_gradient(rows), "plain form");
  check(gradient_by_blocks(dam, rows, 1 << 24), "one block");
  check(gradient_by_blocks(dam, rows, 700), "small blocks");
  check(dam.gradient(rows), "op");
}

TEST(Dam, GoldenVectorsInEveryForm) {
  for (const auto& entry : golden_cases("dam")) {
    const auto file = read_golden(entry);
    const std::int64_t L = entry.at("L");
    const auto bits = golden_tensor(file, "bits");
    for (const std::string probabilities : {"exact", "clamped"}) {
      for (const std::string positions : {"from_0", "from_1"}) {
        DamConfig config;
        config.heads = entry.at("H");
        config.eta = entry.at("eta");
        config.probabilities = probabilities;
        config.positions = positions;
        const auto dam = make_dam(config, L);
        set_weights(*dam, golden_tensor(file, "weight.A_logits"), golden_tensor(file, "weight.B_logits"));
        dam->memory()->set_bits(0, golden_tensor(file, "queue").to(torch::kUInt8));
        std::vector<std::int32_t> drawn;
        for (std::int32_t b = 0; b < bits.size(0); ++b) drawn.push_back(b);
        const Problem problem(*dam, table_of(bits), drawn);
        const auto rows = problem.rows();
        in_every_form(*dam, rows, [&](const Losses& losses, const char* form) {
          SCOPED_TRACE(fmt::format("{} {} {} {}", std::string(entry.at("name")), probabilities, positions, form));
          expect_golden(span_of(losses.loss_R), file, fmt::format("{}.{}.loss", probabilities, positions));
          expect_gradient(*dam, file, fmt::format("{}.{}.", probabilities, positions));
        });
        const auto scores = dam->score(rows);  // rows in lexicographic order
        const auto first = dam->facts.first_predicted_bit;
        auto loss = golden_tensor(file, probabilities + ".loss_per_position");
        for (std::size_t u = 0; u < problem.cells.ranks.size(); ++u)
          loss[problem.cells.ranks[u]].slice(0, first).copy_(scores.loss_RUP[0][static_cast<std::int64_t>(u)]);
        expect_golden(span_of(loss), file, probabilities + ".loss_per_position");
        if (probabilities == "clamped") continue;
        const auto plain = dam->logits(rows).detach(), fast = dam->predict(rows), probability = golden_tensor(file, "probability");
        for (std::size_t i = 0; i < problem.cells.row.size(); ++i) {
          const auto rank = problem.cells.ranks[static_cast<std::size_t>(problem.cells.row[i])];
          const auto expected = probability[rank][problem.cells.position[i] + first].item<double>();
          EXPECT_NEAR(plain[0][static_cast<std::int64_t>(i)].sigmoid().item<double>(), expected, 1e-12);
          EXPECT_NEAR(fast[0][static_cast<std::int64_t>(i)].sigmoid().item<double>(), expected, 1e-12);
        }
      }
    }
  }
}

TEST(Dam, GoldenRetrievalInEveryForm) {
  for (const auto& entry : golden_cases("dam")) {
    const auto file = read_golden(entry);
    if (!file.contains("retrieval.table")) continue;
    DamConfig config;
    config.heads = entry.at("H");
    config.eta = entry.at("eta");
    config.objective = "retrieval";
    const auto dam = make_dam(config, entry.at("L"));
    set_weights(*dam, golden_tensor(file, "weight.A_logits"), golden_tensor(file, "weight.B_logits"));
    const auto index = file.get<std::int64_t>("retrieval.index");
    const Problem problem(*dam, table_of(golden_tensor(file, "retrieval.table")), {index.begin(), index.end()});
    const auto check = [&](const Losses& losses, const char* form) {
      SCOPED_TRACE(fmt::format("{} {}", std::string(entry.at("name")), form));
      expect_golden(span_of(losses.loss_R), file, "retrieval.loss");
      expect_golden(span_of(losses.accuracy_R), file, "retrieval.accuracy");
      expect_gradient(*dam, file, "retrieval.");
    };
    check(gradient_by_blocks(*dam, problem.rows(), 1 << 24), "one block");
    check(gradient_by_blocks(*dam, problem.rows(), 7), "small blocks");
    check(dam->gradient(problem.rows()), "op");
    const auto scores = dam->score(problem.rows());
    const auto weight = torch::tensor(torch::ArrayRef<double>(problem.cells.row_weight), torch::kFloat64);
    expect_golden(span_of((scores.loss_RUP[0].mean(1) * weight).sum().reshape({1})), file, "retrieval.loss");
    expect_golden(span_of((scores.accuracy_RUP[0].mean(1) * weight).sum().reshape({1})), file, "retrieval.accuracy");
  }
}

/// A lively DAM, a batch half of which it stores.
struct Case {
  std::unique_ptr<Model> model;
  TestBatch data;

  Case(const DamConfig& config, std::int64_t length, torch::Dtype dtype = torch::kFloat64)
      : model(lively_model(config, length, dtype)), data(40, length, 24, 3) {
    model->memory()->begin_phase(0, 1, data.table(), /*clear_memory=*/false);
    std::vector<std::int32_t> seen{3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 0, 0, 0, 20, 21};
    model->memory()->observe(0, seen);
  }
  Model& dam() { return *model; }
};

DamConfig small_dam() {
  DamConfig config;
  config.heads = 5;
  config.eta = 3;
  config.init_std = 0.02;
  config.capacity = 100;
  return config;
}

TEST(Dam, FormsAgreeWithoutASharedFile) {
  for (const std::int64_t length : {2, 9, 70}) {
    Case c(small_dam(), length);
    const auto rows = c.data.rows_for(c.dam());
    const auto reference = c.dam().plain_gradient(rows);
    const auto gradient = c.dam().parameters.gradient_RP().clone();
    in_every_form(c.dam(), rows, [&](const Losses& losses, const char* form) {
      EXPECT_NEAR(losses.loss_R.item<double>(), reference.loss_R.item<double>(), 1e-12) << form;
      EXPECT_NEAR(losses.accuracy_R.item<double>(), reference.accuracy_R.item<double>(), 1e-12) << form;
      EXPECT_LE((c.dam().parameters.gradient_RP() - gradient).abs().max().item<double>(), 1e-12 * gradient.abs().max().item<double>()) << form;
    });
  }
}

TEST(Dam, Float32ErrsAtMostTwiceAsMuchAsThePlainForm) {
  double plain = 0, fast = 0;
  for (const std::int64_t length : {5, 20, 50}) {
    auto config = small_dam();
    config.heads = 30;
    config.eta = 10;
    Case exact(config, length), rounded(config, length, torch::kFloat32);
    for (std::size_t i = 0; i < 2; ++i) {
      torch::NoGradGuard no_grad;
      exact.dam().parameters.leaf(i).copy_(rounded.dam().parameters.leaf(i));
    }
    exact.dam().gradient(exact.data.rows_for(exact.dam()));
    const auto error = [&] {
      double sum = 0;
      for (std::size_t i = 0; i < 2; ++i) {
        const auto reference = exact.dam().parameters.leaf(i).grad();
        sum += ((rounded.dam().parameters.leaf(i).grad().to(torch::kFloat64) - reference).norm() / reference.norm()).item<double>();
      }
      return sum;
    };
    const auto rows = rounded.data.rows_for(rounded.dam());
    rounded.dam().plain_gradient(rows);
    plain += error();
    rounded.dam().gradient(rows);
    fast += error();
  }
  EXPECT_LE(fast, 2 * plain);
}

TEST(Dam, IsAttentionOverTheSlots) {
  const std::int64_t L = 9;
  Case c(small_dam(), L);
  torch::NoGradGuard no_grad;
  auto& dam = c.dam();
  const auto A_logits = dam.parameters["A_logits"][0], B = dam.parameters["B_logits"][0].softmax(-1);
  const auto chi = 2 * dam.memory()->bits(0).to(torch::kFloat64) - 1;
  const auto logits = dam.predict(c.data.rows_for(dam, Sharing::none))[0];
  const auto all = 2 * c.data.rows_for(dam, Sharing::none).tensors().bits_RUL[0].to(torch::kFloat64) - 1;
  for (std::int64_t n = 1; n < L; ++n) {
    const auto phi_hat = all.slice(1, 0, n).matmul(A_logits[n].slice(1, 0, n).softmax(-1).t());  // [B, H]
    const auto p = torch::scaled_dot_product_attention(phi_hat.unsqueeze(0), chi.matmul(B.t()).unsqueeze(0),
                                                       (chi.slice(1, n, n + 1) > 0).to(torch::kFloat64).unsqueeze(0), {}, 0, false, 3.0)[0]
                       .squeeze(1);
    const auto ours = logits.view({-1, L - 1}).select(1, n - 1).sigmoid();
    EXPECT_LT((p - ours).abs().max().item<double>(), 1e-12) << n;
  }
}

TEST(Dam, ZeroLogitsCompareMeans) {
  const std::int64_t L = 8;
  auto config = small_dam();
  config.init_std = 0;
  Case c(config, L);
  const auto chi = 2 * c.dam().memory()->bits(0).to(torch::kFloat64) - 1;
  const auto rows = c.data.rows_for(c.dam(), Sharing::none);
  const auto zeta = 2 * rows.tensors().bits_RUL[0].to(torch::kFloat64) - 1;
  const auto p = c.dam().predict(rows)[0].sigmoid().view({-1, L - 1});
  for (std::int64_t n = 1; n < L; ++n) {
    const auto s = config.eta * static_cast<double>(config.heads) * zeta.slice(1, 0, n).mean(1).unsqueeze(1) * chi.mean(1).unsqueeze(0);
    const auto expected = s.softmax(1).matmul((chi.select(1, n) > 0).to(torch::kFloat64));
    EXPECT_LT((p.select(1, n - 1) - expected).abs().max().item<double>(), 1e-12);
  }
}

TEST(Dam, AnEmptyMemoryTeachesNothing) {
  auto config = small_dam();
  config.init_std = 0.1;
  const auto dam = make_dam(config, 12);
  const auto table = SequenceTable::random(5, 0, 20, 12);
  const auto sampler = RankSampler::zipf(20, 1);
  Adam adam(dam->parameters, {{1e-2, 0.9, 0.999, 1e-8, 0}});
  Trainer trainer(*dam, adam, {{&table, DrawStream(sampler, 1, 8)}});
  const auto before = dam->parameters.flat_RP().clone();
  const auto first = trainer.step(0);
  EXPECT_DOUBLE_EQ(first.loss_R.item<double>(), std::log(2.0));
  EXPECT_EQ(first.accuracy_R.item<double>(), 0.5);
  EXPECT_TRUE(torch::equal(dam->parameters.flat_RP(), before));
  EXPECT_EQ(dam->memory()->bits(0).size(0), 8);
  trainer.step(1);
  EXPECT_FALSE(torch::equal(dam->parameters.flat_RP(), before));
  // momentum does not move an emptied memory either
  const auto trained = dam->parameters.flat_RP().clone();
  trainer.begin_phase(0, table);
  EXPECT_TRUE(dam->memory()->empty(0));
  trainer.step(2);
  EXPECT_TRUE(torch::equal(dam->parameters.flat_RP(), trained));
  trainer.begin_phase(0, table, /*clear_memory=*/false);
  EXPECT_EQ(dam->memory()->bits(0).size(0), 8);
}

TEST(Dam, AReplicaOfAPackEqualsItAlone) {
  std::vector<ModelConfig> configs;
  for (const double eta : {1.0, 10.0}) {
    auto config = small_dam();
    config.eta = eta;
    config.init_std = 0.3;
    config.seed = static_cast<std::uint32_t>(eta);
    configs.emplace_back(config);
  }
  const TestBatch data(30, 10, 16, 2), other(30, 10, 16, 4);
  const auto pack = make_model(configs, 10, torch::kFloat64, torch::kCPU);
  const auto cells = cells_of_batch(data.table(), std::vector<std::int32_t>{0, 1, 2, 3, 3}),
             other_cells = cells_of_batch(other.table(), std::vector<std::int32_t>{7, 8});
  const std::vector<ReplicaCells> both{{&cells, &data.table()}, {&other_cells, &other.table()}};
  for (std::int64_t r = 0; r < 2; ++r) {
    pack->memory()->begin_phase(r, 0, *both[static_cast<std::size_t>(r)].table, true);
    pack->memory()->observe(r, std::vector<std::int32_t>{1, 2, 9, 9, 20});
  }
  const auto losses = pack->gradient(CellBatch(both, torch::kFloat64, torch::kCPU));
  for (std::int64_t r = 0; r < 2; ++r) {
    const auto i = static_cast<std::size_t>(r);
    const auto alone = make_model({&configs[i], 1}, 10, torch::kFloat64, torch::kCPU);
    alone->memory()->begin_phase(0, 0, *both[i].table, true);
    alone->memory()->observe(0, std::vector<std::int32_t>{1, 2, 9, 9, 20});
    const auto loss = alone->gradient(CellBatch({both[i]}, torch::kFloat64, torch::kCPU));
    EXPECT_EQ(losses.loss_R[r].item<double>(), loss.loss_R.item<double>());
    EXPECT_TRUE(torch::equal(pack->parameters.gradient_RP()[r], alone->parameters.gradient_RP()[0]));
    gradient_by_blocks(*pack, CellBatch(both, torch::kFloat64, torch::kCPU), 1000);
    EXPECT_LT((pack->parameters.gradient_RP()[r] - alone->parameters.gradient_RP()[0]).abs().max().item<double>(), 1e-12);
    pack->gradient(CellBatch(both, torch::kFloat64, torch::kCPU));
  }
}

TEST(Dam, StateAndMemoryComeBack) {
  Case c(small_dam(), 10);
  const auto rows = c.data.rows_for(c.dam());
  const auto logits = c.dam().predict(rows).clone();
  const auto state = c.dam().memory()->state(0);
  const auto memory = c.dam().memory()->bits(0);
  EXPECT_EQ(memory.size(0), 12 + 16);
  c.dam().memory()->begin_phase(0, 2, c.data.table(), true);
  EXPECT_EQ(c.dam().predict(rows).abs().max().item<double>(), 0);
  c.dam().memory()->set_state(0, state);
  EXPECT_TRUE(torch::equal(c.dam().predict(rows), logits));
  c.dam().memory()->set_bits(0, memory);  // by bits: other ids, the same sequences in another order
  EXPECT_LT((c.dam().predict(rows) - logits).abs().max().item<double>(), 1e-12);
  EXPECT_TRUE(torch::equal(c.dam().memory()->bits(0).sum(0), memory.sum(0)));
}

TEST(Dam, MeasuresOfKnownWeights) {
  auto config = small_dam();
  const std::int64_t L = 6, H = config.heads;
  const auto dam = make_dam(config, L);
  set_weights(*dam, torch::zeros({L, H, L}, torch::kFloat64), torch::zeros({H, L}, torch::kFloat64));
  auto measures = dam->measures();
  const auto scalar = [&](const std::string& name) {
    for (const auto& [key, value] : measures.scalars) {
      if (key == name) return value;
    }
    throw std::out_of_range(name);
  };
  double sharpness = 0;
  for (int n = 1; n < L; ++n) sharpness += 1.0 / n / static_cast<double>(L - 1);
  EXPECT_NEAR(scalar("A_sharpness"), sharpness, 1e-7);
  EXPECT_NEAR(scalar("B_sharpness"), 1.0 / static_cast<double>(L), 1e-12);
  EXPECT_TRUE(std::isnan(scalar("A_correlation")) && std::isnan(scalar("B_correlation")));
  EXPECT_EQ(scalar("distinct_stored"), 0);
  // two heads alike, three their mirror image: of 10 pairs 4 correlate with +1, 6 with -1
  auto A = torch::zeros({L, H, L}, torch::kFloat64);
  for (std::int64_t n = 2; n < L; ++n) {
    for (std::int64_t h = 0; h < H; ++h) A[n][h][h < 2 ? 0 : 1] = 100;
  }
  set_weights(*dam, A, torch::zeros({H, L}, torch::kFloat64));
  measures = dam->measures();
  for (const auto& [name, values] : measures.vectors) {
    ASSERT_EQ(values.size(), static_cast<std::size_t>(L)) << name;
    if (name == "A_correlation_offdiag_mean") {
      EXPECT_NEAR(values[2], -0.2, 1e-6);
    }
    if (name == "A_sharpness") {
      EXPECT_NEAR(values[4], 1, 1e-6);
    }
    if (name == "A_logits_mean") {
      EXPECT_NEAR(values[4], 25, 1e-5);
    }
    if (name == "A_raw_logits_mean") {
      EXPECT_NEAR(values[4], 100.0 / static_cast<double>(L), 1e-5);
    }
    // of rows with one entry of L set the correlation is -1/(L-1) where the entries differ
    if (name == "A_raw_correlation_offdiag_mean") {
      EXPECT_NEAR(values[4], 0.4 - 0.6 / static_cast<double>(L - 1), 1e-6);
    }
  }
}

TEST(Dam, CorrelationsOfHeadsAlikeNeverExceedOne) {
  auto config = small_dam();
  for (config.heads = 2; config.heads < 12; ++config.heads) {
    const std::int64_t L = 7;
    const auto dam = make_dam(config, L);
    const auto B_L = torch::arange(L, torch::kFloat64).square() / 7;
    set_weights(*dam, B_L.expand({L, config.heads, L}), B_L.expand({config.heads, L}));
    for (const auto& [name, value] : dam->measures().scalars) {
      if (name != "A_correlation" && name != "B_correlation") continue;
      EXPECT_LE(value, 1) << name << " of " << config.heads << " heads";
      EXPECT_NEAR(value, 1, 1e-12) << name;
    }
  }
}

TEST(MemoryQueue, IsFirstInFirstOutAndCounts) {
  const auto first = SequenceTable::random(1, 0, 10, 8), second = SequenceTable::random(1, 1, 10, 8);
  MemoryQueue queue(4);
  queue.begin_phase(0, first, true);
  EXPECT_EQ(queue.size(), 0);
  EXPECT_TRUE(queue.distinct().empty());
  queue.push(std::vector<std::int32_t>{5, 5, 7});
  ASSERT_EQ(queue.distinct().size(), 2U);
  EXPECT_EQ(queue.distinct()[0].bits, first.row(5).data());
  EXPECT_EQ(queue.distinct()[0].count, 2);
  queue.push(std::vector<std::int32_t>{1, 2, 5, 7, 7, 7});  // more than fit
  EXPECT_EQ(queue.slots(), (std::vector<std::int64_t>{5, 7, 7, 7}));
  queue.begin_phase(1, second, false);
  queue.push(std::vector<std::int32_t>{5});
  const std::int64_t other = std::int64_t{1} << 32;
  EXPECT_EQ(queue.slots(), (std::vector<std::int64_t>{7, 7, 7, other | 5}));
  EXPECT_EQ(queue.distinct()[1].bits, second.row(5).data());
  const auto bits = queue.bits();
  for (std::int64_t j = 0; j < 8; ++j) {
    EXPECT_EQ(bits[static_cast<std::size_t>(j)], first.bit(7, j));
    EXPECT_EQ(bits[static_cast<std::size_t>(24 + j)], second.bit(5, j));
  }
  for (const auto wrong : {std::int64_t{10}, 2 * other, std::int64_t{-1}}) EXPECT_THROW(queue.set_slots({&wrong, 1}), std::out_of_range);
  EXPECT_EQ(queue.size(), 4);
  queue.begin_phase(2, second, true);
  EXPECT_EQ(queue.size(), 0);
  queue.begin_phase(0, first, true);  // a run that starts anew knows no other phase
  EXPECT_THROW(queue.set_slots({&other, 1}), std::out_of_range);
}

}  // namespace
}  // namespace mnemo
