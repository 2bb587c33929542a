#include "models/one_layer_attention.h"

#include "core/adam.h"
#include "core/batches.h"
#include "core/zipf.h"
#include "golden_case.h"
#include "models/make_model.h"
#include "testing_models.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

namespace mnemo {
namespace {

using torch::Tensor;

OneLayerAttentionConfig config_of(const nlohmann::json& golden) {
  OneLayerAttentionConfig config;
  config.heads = golden.at("H");
  config.head_dim = golden.at("F");
  config.mlp_width = golden.at("D");
  config.mlp_layers = golden.at("layers");
  return config;
}

TEST(OneLayerAttentionGolden, EveryCase) {
  const auto cases = golden_cases("one_layer_attention");
  ASSERT_FALSE(cases.empty());
  for (const auto& golden : cases) {
    for (const char* attention : {"dense", "auto"}) {
      auto config = config_of(golden);
      config.attention = attention;
      SCOPED_TRACE(attention);
      expect_golden_case(golden, config);
    }
  }
}

TEST(OneLayerAttention, HasThePublishedNumberOfParameters) {
  // MATHS 2: 4,682 at C = 20, 283,298 at C = 208, 8,093,954 at C = 1152, which hold 2C of an unused LayerNorm
  const std::pair<std::int64_t, std::int64_t> published[] = {{20, 4682}, {208, 283298}, {1152, 8093954}};
  for (const auto& [width, count] : published) {
    OneLayerAttentionConfig config;
    config.heads = 1;
    config.head_dim = width;
    EXPECT_EQ(facts_of(config, 100).num_parameters(), count - 2 * width);
  }
}

TEST(OneLayerAttention, WithoutAttentionKnowsTheBitFrequencyOnly) {
  // MATHS 7: zeroed c_attn: every logit constant over inputs and positions
  OneLayerAttentionConfig config;
  config.attention_init = "zero";
  const ModelConfig any = config;
  const auto model = make_model({&any, 1}, 12, torch::kFloat64, torch::kCPU);
  torch::NoGradGuard no_grad;
  for (auto name : {"ln_f.bias", "linear_modules.0.bias", "lm_head.bias"}) model->parameters[name].normal_();
  const TestBatch batch(50, 12, 20);
  const auto logits = model->logits(batch.rows(torch::kFloat64));
  EXPECT_LT((logits - logits[0][0]).abs().max().item<double>(), 1e-12);
}

TEST(OneLayerAttention, MlpRatioRoundsToTheNearestWidth) {
  OneLayerAttentionConfig config;
  config.heads = 3;
  config.head_dim = 5;
  EXPECT_EQ(config.resolved_mlp_width(), 15);
  config.mlp_ratio = 0.5;
  EXPECT_EQ(config.resolved_mlp_width(), 8);
  config.mlp_ratio = 0.001;
  EXPECT_EQ(config.resolved_mlp_width(), 1);
  config.mlp_ratio = 0;
  config.mlp_width = 7;
  EXPECT_EQ(config.resolved_mlp_width(), 7);
}

TEST(OneLayerAttention, InitialWeightsHaveTheAskedSpread) {
  OneLayerAttentionConfig config;
  config.heads = 4;
  config.head_dim = 32;
  const ModelConfig any = config;
  const auto model = make_model({&any, 1}, 50, torch::kFloat32, torch::kCPU);
  const auto& p = model->parameters;
  EXPECT_NEAR(p["c_attn.weight"].std().item<double>(), 0.02, 0.001);
  EXPECT_NEAR(p["linear_modules.2.weight"].std().item<double>(), 0.02, 0.001);
  EXPECT_EQ(p["c_attn.bias"].abs().max().item<double>(), 0);
  EXPECT_TRUE((p["ln_f.weight"] == 1).all().item<bool>());
}

}  // namespace
}  // namespace mnemo
