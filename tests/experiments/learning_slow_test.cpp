// Short trainings against the Bayes ceiling, which is strict: a model above it sees what it must not see.

#include "experiments/run/evaluate.h"
#include "experiments/run/theory.h"
#include "experiments/run/trainer.h"
#include "testing_models.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <algorithm>

namespace mnemo {
namespace {

struct Result {
  double top_accuracy, top_ceiling, mean_accuracy, mean_ceiling, mean_loss, mean_floor;
};

/// p-weighted accuracy and loss over all ranks, and means over the five most frequent.
Result measure(Model& model, const SequenceTable& table, const RankSampler& sampler) {
  const auto& p = sampler.probabilities();
  const auto theory = bayes(table, p);
  const auto scores = score(model, table, strided_ranks(table.num_sequences(), 1));
  Result result{0, Theory::mean(theory.accuracy, 0, 5), 0, theory.mean_accuracy, 0, theory.mean_loss};
  for (std::size_t rank = 0; rank < p.size(); ++rank) {
    if (rank < 5) result.top_accuracy += scores.accuracy[rank] / 5;
    result.mean_accuracy += p[rank] * scores.accuracy[rank];
    result.mean_loss += p[rank] * scores.loss[rank];
  }
  return result;
}

Result train_on(Model& model, const SequenceTable& table, const RankSampler& sampler, std::int64_t steps, double lr = 3e-3) {
  Adam adam(model.parameters, {{lr, 0.9, 0.999, 1e-8, 0}});
  Trainer trainer(model, adam, {{&table, DrawStream(sampler, 1, 32)}});
  for (std::int64_t step = 0; step < steps; ++step) trainer.step(step);
  return measure(model, table, sampler);
}

TEST(Learning, ReachesTheCeilingOfItsTopRanksAndNeverPassesTheStrictOne) {
  torch::manual_seed(0);
  const auto table = SequenceTable::random(5, 0, 30, 12);
  const auto sampler = RankSampler::zipf(30, 1);
  OneLayerAttentionConfig config;
  config.heads = 2;
  const ModelConfig any = config;
  const auto model = make_model({&any, 1}, 12, torch::kFloat32, torch::kCPU);
  const auto result = train_on(*model, table, sampler, 2500);
  EXPECT_GT(result.top_accuracy, 0.5 + 0.97 * (result.top_ceiling - 0.5));
  EXPECT_GT(result.mean_accuracy, 0.5 + 0.9 * (result.mean_ceiling - 0.5));
  EXPECT_LE(result.mean_accuracy, result.mean_ceiling + 1e-6);
  EXPECT_GE(result.mean_loss, result.mean_floor - 1e-6);
}

/// The data of configs/quickstart.yaml, and half of what its model needs.
TEST(Learning, AGptLearnsWithBothKindsOfPositions) {
  const auto table = SequenceTable::random(0, 0, 256, 20);
  const auto sampler = RankSampler::zipf(256, 1);
  for (const char* position : {"learned", "rope"}) {
    SCOPED_TRACE(position);
    GptConfig config;
    config.layers = 2;
    config.position = position;
    const ModelConfig any = config;
    const auto model = make_model({&any, 1}, 20, torch::kFloat32, torch::kCPU);
    const auto result = train_on(*model, table, sampler, 1500, 1e-3);
    EXPECT_GT(result.top_accuracy, 0.5 + 0.9 * (result.top_ceiling - 0.5));
    EXPECT_LE(result.mean_accuracy, result.mean_ceiling + 1e-6);
    EXPECT_GE(result.mean_loss, result.mean_floor - 1e-6);
  }
}

TEST(Learning, DenseAndBinaryAttentionGiveTheSameCurve) {
  const auto table = SequenceTable::random(6, 0, 100, 20);
  const auto sampler = RankSampler::zipf(100, 1);
  std::vector<std::vector<double>> curves;
  for (const char* attention : {"dense", "auto"}) {
    OneLayerAttentionConfig config;
    config.heads = 2;
    config.head_dim = 8;
    config.attention = attention;
    const ModelConfig any = config;
    const auto model = make_model({&any, 1}, 20, torch::kFloat32, torch::kCPU);
    Adam adam(model->parameters, {{1e-3, 0.9, 0.999, 1e-8, 0}});
    Trainer trainer(*model, adam, {{&table, DrawStream(sampler, 1, 32)}});
    auto& curve = curves.emplace_back();
    for (std::int64_t step = 0; step < 1000; ++step) curve.push_back(trainer.step(step).loss_R.item<double>());
  }
  // rounding is amplified on the way: single losses drift apart slowly, means over a hundred stay together
  for (std::size_t step = 0; step < 100; ++step) EXPECT_NEAR(curves[0][step], curves[1][step], 1e-4) << step;
  for (std::size_t begin = 0; begin < 1000; begin += 100) {
    double difference = 0;
    for (std::size_t step = begin; step < begin + 100; ++step) difference += (curves[0][step] - curves[1][step]) / 100;
    EXPECT_NEAR(difference, 0, 5e-3) << begin;
  }
}

/// A model whose input is shifted by one: each position sees the bit it is to predict.
class Leaky : public Model {
 public:
  explicit Leaky(std::unique_ptr<Model> model) : Model(model->facts, model->parameters.replica(0)), model_(std::move(model)) {}

  std::unique_ptr<Model> replica(std::int64_t r) const override { return std::make_unique<Leaky>(model_->replica(r)); }

  torch::Tensor logits(const CellBatch& rows) override {
    const auto& [cells, table] = rows.replicas()[0];
    const auto K = table->num_sequences(), L = table->length();
    auto bits = table->unpack_all();
    for (std::int64_t rank = 0; rank < K; ++rank) std::rotate(bits.begin() + rank * L, bits.begin() + rank * L + 1, bits.begin() + (rank + 1) * L);
    const auto shifted = SequenceTable::from_array(view_of(bits.data(), {K, L}));
    return model_->logits(CellBatch({{cells, &shifted}}, torch::kFloat32, torch::kCPU));
  }

 private:
  std::unique_ptr<Model> model_;
};

TEST(Learning, TheStrictCeilingCatchesALeak) {
  const auto table = SequenceTable::random(5, 0, 30, 12);
  const auto sampler = RankSampler::zipf(30, 1);
  OneLayerAttentionConfig config;
  config.heads = 2;
  config.attention = "dense";
  const ModelConfig any = config;
  Leaky model(make_model({&any, 1}, 12, torch::kFloat32, torch::kCPU));
  const auto theory = bayes(table, sampler.probabilities());
  Adam adam(model.parameters, {{3e-3, 0.9, 0.999, 1e-8, 0}});
  Trainer trainer(model, adam, {{&table, DrawStream(sampler, 1, 32)}}, Sharing::none);  // a leak makes cells with one prefix differ
  double loss = 0;
  for (std::int64_t step = 0; step < 600; ++step) {
    const auto now = trainer.step(step).loss_R.item<double>();
    if (step >= 500) loss += now / 100;
  }
  EXPECT_LT(loss, theory.mean_loss / 2);
}

}  // namespace
}  // namespace mnemo
