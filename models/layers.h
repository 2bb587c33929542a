#pragma once

// What transformers are made of, as compositions of LibTorch over R replicas at once: the readable forms.
// Shapes: R replicas, U rows, P positions, N tokens in any order, H heads of F, C = H F.

#include <torch/types.h>

#include <cstdint>

namespace mnemo {

/// Weight [R, out, in] and bias [R, out] of a linear layer, or both [R, C] of a LayerNorm.
struct Affine {
  torch::Tensor weight, bias;
};

constexpr double kLayerNormEps = 1e-5;

/// x W^T + b: [R, N, in] to [R, N, out].
torch::Tensor linear(const torch::Tensor& x_RNi, const Affine& layer);
torch::Tensor layer_norm(const torch::Tensor& x_RNC, const Affine& layer);

/// Token embeddings [R, 2, C], with position embeddings [R, L, C] added if there are any, of bits uint8 [R, U, P]: [R, U, P, C].
torch::Tensor embedded(const torch::Tensor& bits_RUP, const torch::Tensor& wte_R2C, const torch::Tensor& wpe_RLC);

/// Queries, keys and values [R, U P, 3C], each head's columns together, to [3, R, U, H, P, F].
torch::Tensor split_heads(const torch::Tensor& qkv, std::int64_t rows, std::int64_t positions, std::int64_t heads);
/// [R, U, H, P, F] to [R, U, P, C].
torch::Tensor join_heads(const torch::Tensor& o_RUHPF);
/// Causal softmax(q k^T / sqrt(F)), the diagonal included: [..., P, F] to [..., P, P].
torch::Tensor causal_attention(const torch::Tensor& q, const torch::Tensor& k);

/// Cosine and sine of the angles by which rotary positions turn pairs of features (MATHS 3): position * 1e4^(-2j/F), [..., F/2].
struct Rotation {
  torch::Tensor cos, sin;
};
/// Of positions of any integer type and shape, on their device.
Rotation rotation_of(const torch::Tensor& position, std::int64_t head_dim, torch::Dtype dtype);
/// Turns each pair (x_j, x_{j + F/2}) of [..., F]; by the opposite angle with `back`.
torch::Tensor rotated(const torch::Tensor& x, const Rotation& by, bool back = false);

}  // namespace mnemo
