#include "models/model.h"

#include "core/loss.h"
#include "core/loss_math.h"

#include <torch/torch.h>

#include <stdexcept>

namespace mnemo {

bool Model::kernels_on_cpu() const { return forms.kernels && parameters.flat_RP().is_cpu() && __builtin_cpu_supports("x86-64-v3"); }

namespace {

/// Loss and accuracy of every prediction, from each cell's logit z and tail = log1p(exp(-|z|)).
template <class Real>
void score_cells(const Cells& cells, const SequenceTable& table, double max_loss, const Real* z, const Real* tail, Real* loss_UP, Real* accuracy_UP) {
  const auto positions = cells.num_positions();
  for (std::int64_t row = 0, i = 0; row < cells.num_rows(); ++row) {
    for (std::int64_t position = 0; position < positions; ++position, ++i) {
      const auto cell = cells.cell_of[static_cast<std::size_t>(i)];
      const bool bit = table.bit(cells.ranks[static_cast<std::size_t>(row)], position + cells.first_predicted_bit);
      const Real for_bit = bit ? z[cell] : -z[cell];
      loss_UP[i] = std::min(Bce<Real>::of_one(for_bit, tail[cell]), static_cast<Real>(max_loss));
      accuracy_UP[i] = for_bit > 0 ? Real{1} : for_bit == 0 ? Real{0.5} : Real{0};
    }
  }
}

}  // namespace

std::vector<torch::Tensor> Model::hidden_layers(const CellBatch&) const { throw std::logic_error("[hidden_layers] this model has none"); }

std::vector<torch::Tensor> Model::attention_maps(const torch::Tensor&) const { throw std::logic_error("[attention_maps] this model has none"); }

torch::Tensor Model::predict(const CellBatch& batch) {
  torch::NoGradGuard no_grad;
  return logits(batch);
}

Losses Model::plain_gradient(const CellBatch& batch) {
  parameters.zero_gradient();
  const auto logits_RN = logits(batch);
  const auto loss = weighted_loss(logits_RN, batch.tensors().weight_RN2, max_loss());
  if (logits_RN.requires_grad()) logits_RN.backward(loss.dlogits_RN);
  if (batch.on_gpu() == nullptr) parameters.zero_frozen_gradients();  // else the step may be recorded, and end with flags of its own
  return {loss.loss_R, loss.accuracy_R};
}

PositionScores Model::score(const CellBatch& batch) {
  const auto z_RN = predict(batch).cpu().contiguous(), tail_RN = z_RN.abs().neg_().exp_().log1p_();
  const auto R = batch.num_replicas(), U = batch.num_rows(), P = batch.num_positions();
  const PositionScores scores{torch::empty({R, U, P}, z_RN.options()), torch::empty({R, U, P}, z_RN.options())};
  AT_DISPATCH_FLOATING_TYPES(z_RN.scalar_type(), "score", [&] {
    for (std::int64_t r = 0; r < R; ++r) {
      const auto& [cells, table] = batch.replicas()[static_cast<std::size_t>(r)];
      score_cells(*cells, *table, max_loss(), z_RN[r].data_ptr<scalar_t>(), tail_RN[r].data_ptr<scalar_t>(), scores.loss_RUP[r].data_ptr<scalar_t>(),
                  scores.accuracy_RUP[r].data_ptr<scalar_t>());
    }
  });
  return scores;
}

std::int64_t Model::activation_width(std::int64_t length) const {
  auto widest = length;  // a row of attention scores
  for (const auto& spec : parameters.specs()) widest = std::max(widest, spec.shape[0]);
  return widest;
}

}  // namespace mnemo
