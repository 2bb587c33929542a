#include "models/one_layer_attention.h"

#include <fmt/format.h>
#include <torch/torch.h>

#include <cmath>
#include <limits>

// Shapes: R replicas, U rows, L bits, P = L-1 positions with a prediction, N cells, C = H F width, D MLP width.

namespace mnemo {

using torch::Tensor;

std::int64_t OneLayerAttentionConfig::resolved_mlp_width() const {
  if (mlp_ratio > 0) return std::max<std::int64_t>(1, std::llround(mlp_ratio * static_cast<double>(width())));
  return mlp_width > 0 ? mlp_width : width();
}

std::vector<std::pair<std::string, std::string>> OneLayerAttentionConfig::problems(std::int64_t length) const {
  constexpr double kMaxParameters = 1e11;
  std::vector<std::pair<std::string, std::string>> found;
  if (mlp_width > 0 && mlp_ratio > 0) found.emplace_back("mlp_ratio", "give mlp_width or mlp_ratio, not both");
  // in floating point: the product of legal sizes can overflow an integer
  const double C = static_cast<double>(heads) * static_cast<double>(head_dim);
  const double D = mlp_ratio > 0 ? mlp_ratio * C : mlp_width > 0 ? static_cast<double>(mlp_width) : C;
  const double parameters = 3 * C * C + static_cast<double>(length) * C + C * D + static_cast<double>(mlp_layers - 1) * D * D;
  if (parameters > kMaxParameters) {
    const auto* widest = D <= C ? "head_dim" : mlp_ratio > 0 ? "mlp_ratio" : "mlp_width";
    found.emplace_back(widest, fmt::format("the model would have {:.1e} parameters; the limit is 1e11", parameters));
  }
  return found;
}

std::vector<ParameterSpec> parameter_specs(const OneLayerAttentionConfig& config, std::int64_t length) {
  using Init = ParameterSpec::Init;
  const auto width = config.width(), mlp_width = config.resolved_mlp_width();
  const auto std = config.init_std;
  const auto attention = config.attention_init == "zero" ? Init::zeros : Init::normal;
  std::vector<ParameterSpec> specs{
      {"wte.weight", "embeddings", {2, width}, Init::normal, std},
      {"wpe.weight", "embeddings", {length, width}, Init::normal, std},
      {"c_attn.weight", "c_attn", {3 * width, width}, attention, std},
      {"c_attn.bias", "c_attn", {3 * width}, Init::zeros},
      {"ln_f.weight", "ln_f", {width}, Init::ones},
      {"ln_f.bias", "ln_f", {width}, Init::zeros},
  };
  for (std::int64_t j = 0; j < config.mlp_layers; ++j) {
    specs.push_back({fmt::format("linear_modules.{}.weight", j), "mlp", {mlp_width, j == 0 ? width : mlp_width}, Init::normal, std});
    specs.push_back({fmt::format("linear_modules.{}.bias", j), "mlp", {mlp_width}, Init::zeros});
  }
  specs.push_back({"lm_head.weight", "lm_head", {2, mlp_width}, Init::normal, std});
  specs.push_back({"lm_head.bias", "lm_head", {2}, Init::zeros});
  return specs;
}

namespace {

/// x W^T + b for each replica: x [R, N, in], W [R, out, in], b [R, out].
Tensor linear(const Tensor& x, const Tensor& weight, const Tensor& bias) {
  return torch::baddbmm(bias.unsqueeze(1), x, weight.transpose(1, 2));
}

}  // namespace

Tensor OneLayerAttention::attention(const Tensor& bits_RUL) const {
  const auto R = bits_RUL.size(0), U = bits_RUL.size(1), P = bits_RUL.size(2) - 1;
  const auto H = config_.heads, F = config_.head_dim, C = config_.width();
  const auto& wte = parameters["wte.weight"];  // [R, 2, C]
  const auto is_one = bits_RUL.slice(2, 0, P).to(torch::kBool).unsqueeze(-1);
  const auto token = [&](std::int64_t bit) { return wte.select(1, bit).view({R, 1, 1, C}); };
  const auto x = torch::where(is_one, token(1), token(0)) + parameters["wpe.weight"].slice(1, 0, P).unsqueeze(1);

  const auto qkv = linear(x.reshape({R, U * P, C}), parameters["c_attn.weight"], parameters["c_attn.bias"]);
  const auto heads = qkv.view({R, U, P, 3, H, F}).permute({3, 0, 1, 4, 2, 5});  // [3, R, U, H, P, F]
  const auto q = heads[0], k = heads[1], v = heads[2];
  const auto future = torch::ones({P, P}, qkv.options().dtype(torch::kBool)).triu(1);
  const auto scores = (torch::matmul(q, k.transpose(-2, -1)) / std::sqrt(static_cast<double>(F)))
                          .masked_fill(future, -std::numeric_limits<double>::infinity());
  return torch::matmul(scores.softmax(-1), v).transpose(2, 3).reshape({R, U, P, C});
}

Tensor OneLayerAttention::logits(const Rows& rows) {
  const auto R = rows.num_replicas(), C = config_.width();
  const auto positions = rows.num_rows() * (rows.length() - 1);
  // one index over all replicas picks the cells
  const auto first = torch::arange(R, rows.cell_RN.options()).unsqueeze(1) * positions;
  const auto o = attention(rows.bits_RUL).view({R * positions, C}).index_select(0, (rows.cell_RN + first).view(-1)).view({R, -1, C});

  auto h = torch::layer_norm(o, {C}, {}, {}, 1e-5) * parameters["ln_f.weight"].unsqueeze(1) + parameters["ln_f.bias"].unsqueeze(1);
  for (std::int64_t j = 0; j < config_.mlp_layers; ++j) {
    const auto name = fmt::format("linear_modules.{}.", j);
    const auto layer = linear(h, parameters[name + "weight"], parameters[name + "bias"]).relu();
    h = j == 0 ? layer : layer + h;
  }
  const auto z = linear(h, parameters["lm_head.weight"], parameters["lm_head.bias"]);  // [R, N, 2]
  return z.select(2, 1) - z.select(2, 0);
}

}  // namespace mnemo
