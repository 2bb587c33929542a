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
  const auto loss = weighted_loss(logits_RN, rows.tensors().weight_RN2, max_loss());
  if (logits_RN.requires_grad()) logits_RN.backward(loss.dlogits_RN);
  return {loss.loss_R, loss.accuracy_R};
}

PositionScores Model::score(const Rows& rows) {
  torch::NoGradGuard no_grad;
  const auto R = rows.num_replicas(), U = rows.num_rows(), P = rows.num_positions();
  std::vector<torch::Tensor> cell_of;
  for (const auto& replica : rows.replicas()) cell_of.push_back(torch::tensor(torch::ArrayRef<std::int32_t>(replica.cells->cell_of), torch::kInt64));
  const auto logits_RUP = predict(rows).gather(1, torch::stack(cell_of).to(parameters.flat_RP().device())).view({R, U, P});
  const auto next_RUP = rows.tensors().bits_RUL.slice(2, rows.first_position());
  const auto loss_RUP = torch::where(next_RUP.to(torch::kBool), bce_of_one(logits_RUP), bce_of_zero(logits_RUP));
  return {loss_RUP.clamp_max(max_loss()), accuracy_of(logits_RUP, next_RUP)};
}

}  // namespace mnemo
