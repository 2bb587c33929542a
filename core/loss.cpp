#include "core/loss.h"

#include <torch/torch.h>

namespace mnemo {

torch::Tensor bce_of_zero(const torch::Tensor& logits) { return logits.clamp_min(0) + (-logits.abs()).exp().log1p(); }

torch::Tensor bce_of_one(const torch::Tensor& logits) { return bce_of_zero(-logits); }

WeightedLoss weighted_loss(const torch::Tensor& logits_RN, const torch::Tensor& weight_RN2, double max_loss) {
  torch::NoGradGuard no_grad;
  const auto logits = logits_RN.detach();
  const auto weight_0 = weight_RN2.select(2, 0), weight_1 = weight_RN2.select(2, 1);
  const auto loss_0 = bce_of_zero(logits), loss_1 = bce_of_one(logits);
  // a weight of 0 must not meet an infinite loss
  const auto term = [&](const torch::Tensor& weight, const torch::Tensor& loss) {
    return torch::where(weight > 0, weight * loss.clamp_max(max_loss), torch::zeros_like(loss));
  };
  const auto slope = [&](const torch::Tensor& weight, const torch::Tensor& loss, const torch::Tensor& derivative) {
    return torch::where(loss > max_loss, torch::zeros_like(loss), weight * derivative);
  };
  const auto right = 0.5 * ((logits > 0).to(logits.dtype()) + (logits >= 0).to(logits.dtype()));
  return {(term(weight_0, loss_0) + term(weight_1, loss_1)).sum(1, /*keepdim=*/false, torch::kFloat64),
          (weight_1 * right + weight_0 * (1 - right)).sum(1, /*keepdim=*/false, torch::kFloat64),
          slope(weight_0, loss_0, logits.sigmoid()) - slope(weight_1, loss_1, (-logits).sigmoid())};
}

}  // namespace mnemo
