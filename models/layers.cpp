#include "models/layers.h"

#include <torch/torch.h>

#include <cmath>
#include <limits>

namespace mnemo {

using torch::Tensor;

Tensor linear(const Tensor& x_RNi, const Affine& layer) { return torch::baddbmm(layer.bias.unsqueeze(1), x_RNi, layer.weight.transpose(1, 2)); }

Tensor layer_norm(const Tensor& x_RNC, const Affine& layer) {
  return torch::layer_norm(x_RNC, {x_RNC.size(-1)}, {}, {}, kLayerNormEps) * layer.weight.unsqueeze(1) + layer.bias.unsqueeze(1);
}

Tensor embedded(const Tensor& bits_RUP, const Tensor& wte_R2C, const Tensor& wpe_RLC) {
  const auto R = bits_RUP.size(0), P = bits_RUP.size(2), C = wte_R2C.size(2);
  const auto is_one = bits_RUP.to(torch::kBool).unsqueeze(-1);
  const auto token = [&](std::int64_t bit) { return wte_R2C.select(1, bit).view({R, 1, 1, C}); };
  const auto x = torch::where(is_one, token(1), token(0));
  return wpe_RLC.defined() ? x + wpe_RLC.slice(1, 0, P).unsqueeze(1) : x;
}

Tensor split_heads(const Tensor& qkv, std::int64_t rows, std::int64_t positions, std::int64_t heads) {
  return qkv.view({qkv.size(0), rows, positions, 3, heads, qkv.size(2) / (3 * heads)}).permute({3, 0, 1, 4, 2, 5});
}

Tensor join_heads(const Tensor& o_RUHPF) { return o_RUHPF.transpose(2, 3).flatten(3); }

Tensor causal_attention(const Tensor& q, const Tensor& k) {
  const auto P = q.size(-2);
  const auto future = torch::ones({P, P}, q.options().dtype(torch::kBool)).triu(1);
  return (torch::matmul(q, k.transpose(-2, -1)) / std::sqrt(static_cast<double>(q.size(-1))))
      .masked_fill(future, -std::numeric_limits<double>::infinity())
      .softmax(-1);
}

Rotation rotation_of(const Tensor& position, std::int64_t head_dim, torch::Dtype dtype) {
  const auto j = torch::arange(head_dim / 2, position.options().dtype(torch::kFloat64));
  const auto angle = position.to(torch::kFloat64).unsqueeze(-1) * torch::pow(1e4, j * (-2.0 / static_cast<double>(head_dim)));
  return {angle.cos().to(dtype), angle.sin().to(dtype)};
}

Tensor rotated(const Tensor& x, const Rotation& by, bool back) {
  const auto half = x.size(-1) / 2;
  const auto u = x.slice(-1, 0, half), v = x.slice(-1, half);
  const auto sin = back ? -by.sin : by.sin;
  return torch::cat({u * by.cos - v * sin, v * by.cos + u * sin}, -1);
}

}  // namespace mnemo
