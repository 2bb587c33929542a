#pragma once

#include <torch/types.h>

#include <limits>

namespace mnemo {

/// BCE(z, y) = max(z, 0) - y z + log1p(exp(-|z|)) of logits, for next bit 0 and next bit 1. Exact at every z; at an infinite logit
/// the loss of the right bit is 0 and of the wrong one infinite. (torch's softplus is linear above 20.)
torch::Tensor bce_of_zero(const torch::Tensor& logits);
torch::Tensor bce_of_one(const torch::Tensor& logits);

/// Per replica, summed over cells with their two weights (N, 2): the loss, its derivative by the logits, and the share of right predictions
/// (a logit of exactly 0 counts half).
struct WeightedLoss {
  torch::Tensor loss_R, accuracy_R;  ///< float64
  torch::Tensor dlogits_RN;          ///< of the logits' type
};
/// logits_RN [R, N], weight_RN2 [R, N, 2]. A loss above `max_loss` counts as that and has no slope. No autograd.
WeightedLoss weighted_loss(const torch::Tensor& logits_RN, const torch::Tensor& weight_RN2,
                           double max_loss = std::numeric_limits<double>::infinity());

}  // namespace mnemo
