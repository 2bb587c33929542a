#include "models/model.h"

#include "core/loss.h"

#include <torch/torch.h>

namespace mnemo {

torch::Tensor Model::predict(const Rows& rows) {
  torch::NoGradGuard no_grad;
  return logits(rows);
}

Losses Model::gradient(const Rows& rows) {
  parameters.zero_gradient();
  const auto logits_RN = logits(rows);
  const auto loss = weighted_loss(logits_RN, rows.tensors().weight_RN2);
  if (logits_RN.requires_grad()) logits_RN.backward(loss.dlogits_RN);
  return {loss.loss_R, loss.accuracy_R};
}

std::int64_t Model::activation_width(std::int64_t length) const {
  auto widest = length;  // a row of attention scores
  for (const auto& spec : parameters.specs()) widest = std::max(widest, spec.shape[0]);
  return widest;
}

}  // namespace mnemo
