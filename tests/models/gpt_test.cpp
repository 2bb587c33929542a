#include "models/gpt.h"

#include "golden_case.h"
#include "models/layers.h"
#include "models/make_model.h"
#include "testing_models.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cmath>

namespace mnemo {
namespace {

using torch::Tensor;

GptConfig small(const char* position) {
  GptConfig config;
  config.layers = 3;
  config.heads = 2;
  config.head_dim = 4;
  config.position = position;
  return config;
}

TEST(GptGolden, EveryCase) {
  const auto cases = golden_cases("gpt");
  ASSERT_FALSE(cases.empty());
  for (const auto& golden : cases) {
    GptConfig config;
    config.layers = golden.at("layers");
    config.heads = golden.at("H");
    config.head_dim = golden.at("F");
    config.position = golden.at("rope") ? "rope" : "learned";
    for (const bool over_cells : {false, true}) {
      SCOPED_TRACE(over_cells ? "over cells" : "plain");
      expect_golden_case(golden, config, {.kernels = over_cells});
    }
  }
}

TEST(Gpt, HasThePublishedNumberOfParameters) {
  // NOTEBOOKS 6: 8 heads x 8 in 12 layers, 16 x 8 in 24, 24 x 8 in 36
  const std::tuple<std::int64_t, std::int64_t, std::int64_t> published[] = {{8, 12, 606'594}, {16, 24, 4'772'098}, {24, 36, 16'035'458}};
  for (const auto& [heads, layers, count] : published) {
    GptConfig config;
    config.heads = heads;
    config.layers = layers;
    config.head_dim = 8;
    const auto C = config.width();
    EXPECT_EQ(facts_of(config, 100).num_parameters(), count);
    EXPECT_EQ(count, layers * (12 * C * C + 13 * C) + 106 * C + 2);
    config.position = "rope";
    EXPECT_EQ(facts_of(config, 100).num_parameters(), count - 100 * C);
  }
}

TEST(Gpt, InitialWeightsHaveTheAskedSpread) {
  GptConfig config;
  config.layers = 8;
  const ModelConfig any = config;
  const auto model = make_model({&any, 1}, 50, torch::kFloat32, torch::kCPU);
  const auto std_of = [&](const char* name) { return model->parameters[name].std().item<double>(); };
  for (const char* name : {"transformer.h.3.attn.c_attn.weight", "transformer.h.7.mlp.c_fc.weight", "transformer.wpe.weight"}) {
    EXPECT_NEAR(std_of(name), 0.02, 0.001) << name;
  }
  for (const char* name : {"transformer.h.0.attn.c_proj.weight", "transformer.h.7.mlp.c_proj.weight"}) {
    EXPECT_NEAR(std_of(name), 0.005, 0.0002) << name;
  }
  EXPECT_EQ(model->parameters["transformer.h.1.mlp.c_fc.bias"].abs().max().item<double>(), 0);
  EXPECT_TRUE((model->parameters["transformer.h.1.ln_2.weight"] == 1).all().item<bool>());
}

TEST(Gpt, OverCellsEqualsThePlainForm) {
  const TestBatch data(40, 17, 64);
  for (const char* position : {"learned", "rope"}) {
    SCOPED_TRACE(position);
    const auto model = lively_model(small(position), 17, torch::kFloat64);
    for (const auto sharing : {Sharing::prefixes, Sharing::none}) {
      const auto rows = data.rows_for(*model, sharing);
      const auto over_cells = model->predict(rows), plain = model->logits(rows).detach();
      EXPECT_LT((over_cells - plain).abs().max().item<double>(), 1e-12 * plain.abs().max().item<double>());
    }
    if (!test_device().is_cpu()) continue;
    const auto rows = data.rows_for(*model);
    const auto fast = model->gradient(rows);
    const auto gradient = model->parameters.gradient_RP().clone();
    const auto plain = model->plain_gradient(rows);
    EXPECT_NEAR(fast.loss_R.item<double>(), plain.loss_R.item<double>(), 1e-12);
    EXPECT_LT((gradient - model->parameters.gradient_RP()).abs().max().item<double>(), 1e-12 * gradient.abs().max().item<double>());
  }
}

// ---- rotary positions

TEST(Rotation, TurnsPairsByAnAngleThatGrowsWithThePosition) {
  const auto position = torch::arange(50, torch::kInt64);
  const auto by = rotation_of(position, 6, torch::kFloat64);
  const auto x = torch::randn({50, 6}, torch::TensorOptions().dtype(torch::kFloat64)), y = rotated(x, by);
  for (std::int64_t j = 0; j < 3; ++j) {
    const double angle = 7 * std::pow(1e4, -2.0 * static_cast<double>(j) / 6);
    const auto u = x[7][j].item<double>(), v = x[7][j + 3].item<double>();
    EXPECT_NEAR(y[7][j].item<double>(), u * std::cos(angle) - v * std::sin(angle), 1e-14);
    EXPECT_NEAR(y[7][j + 3].item<double>(), v * std::cos(angle) + u * std::sin(angle), 1e-14);
  }
  EXPECT_TRUE(torch::equal(y[0], x[0]));
  EXPECT_LT((rotated(y, by, /*back=*/true) - x).abs().max().item<double>(), 1e-14);
}

TEST(Rotation, ScoresDependOnTheDistanceAlone) {
  const auto options = torch::TensorOptions().dtype(torch::kFloat64);
  const auto q = torch::randn({8}, options), k = torch::randn({8}, options);
  const auto score = [&](std::int64_t of_query, std::int64_t of_key) {
    const auto at = [](std::int64_t position) { return rotation_of(torch::tensor(position, torch::kInt64), 8, torch::kFloat64); };
    return rotated(q, at(of_query)).dot(rotated(k, at(of_key))).item<double>();
  };
  EXPECT_NEAR(score(9, 4), score(59, 54), 1e-12);
  EXPECT_GT(std::abs(score(9, 4) - score(9, 5)), 1e-6);
}

/// Of a sequence and the same two positions later: what the first block attends to, among the keys that both have.
TEST(Gpt, WithRotaryPositionsTheFirstBlockSeesDistancesAlone) {
  constexpr std::int64_t L = 12, kShift = 2;
  auto bits = torch::randint(2, {1, 1, L}, torch::kInt64).to(torch::kUInt8), shifted = torch::roll(bits, kShift, 2);
  for (const char* position : {"rope", "learned"}) {
    const auto model = lively_model(small(position), L, torch::kFloat64);
    const auto map_of = [&](const Tensor& of) { return model->attention_maps(of.to(test_device()))[0].detach().cpu()[0][0]; };
    const auto relative = [](const Tensor& map) { return map / map.diagonal(0, 1, 2).unsqueeze(2); };
    const auto here = relative(map_of(bits)).slice(1, 0, L - kShift).slice(2, 0, L - kShift);
    const auto there = relative(map_of(shifted)).slice(1, kShift).slice(2, kShift);
    EXPECT_EQ(torch::allclose(here, there, 1e-9, 1e-12), std::string(position) == "rope");
  }
}

// ---- measures

TEST(Gpt, HasAnAttentionMapOfEveryLayer) {
  const auto model = lively_model(small("learned"), 9, torch::kFloat64);
  const auto bits = torch::randint(2, {1, 4, 9}, torch::kInt64).to(torch::kUInt8).to(test_device());
  model->parameters["transformer.h.1.attn.c_attn.weight"].detach().zero_();
  const auto maps = model->attention_maps(bits);
  ASSERT_EQ(maps.size(), 3u);
  for (const auto& map : maps) {
    EXPECT_EQ(map.sizes(), (torch::IntArrayRef{1, 4, 2, 9, 9}));
    EXPECT_LT((map.sum(-1) - 1).abs().max().item<double>(), 1e-12);
    EXPECT_EQ(map.triu(1).abs().max().item<double>(), 0);
  }
  const auto uniform = torch::ones_like(maps[1]).tril() / torch::arange(1, 10, maps[1].options().requires_grad(false)).unsqueeze(1);
  EXPECT_LT((maps[1] - uniform).abs().max().item<double>(), 1e-12);  // without scores
  EXPECT_GT((maps[2] - uniform).abs().max().item<double>(), 0.01);
}

TEST(Gpt, HiddenLayersAreTheStreamAfterEachBlockAndWhatTheHeadReads) {
  const TestBatch data(20, 8, 16);
  const auto model = lively_model(small("rope"), 8, torch::kFloat64);
  const auto rows = data.rows_for(*model);
  torch::NoGradGuard no_grad;
  const auto layers = model->hidden_layers(rows);
  ASSERT_EQ(layers.size(), model->facts.hidden_widths.size());
  const auto normed = torch::layer_norm(layers[2], {8}) * model->parameters["transformer.ln_f.weight"] + model->parameters["transformer.ln_f.bias"];
  EXPECT_LT((normed - layers[3]).abs().max().item<double>(), 1e-12);
  const auto z = torch::matmul(layers[3], model->parameters["lm_head.weight"].transpose(1, 2)) + model->parameters["lm_head.bias"];
  EXPECT_LT((z.select(2, 1) - z.select(2, 0) - model->logits(rows)).abs().max().item<double>(), 1e-12);
}

}  // namespace
}  // namespace mnemo
