#include "experiments/evaluate.h"

#include "core/rows.h"

#include <torch/torch.h>

#include <algorithm>
#include <numeric>

namespace mnemo {

namespace {

/// Rows of a block: as many as keep the largest activation near 16 MB.
std::size_t rows_per_block(const Model& model, std::int64_t length) {
  return static_cast<std::size_t>(std::clamp<std::int64_t>((1 << 22) / (length * model.activation_width(length)), 1, 8192));
}

/// Means over the predictions of each row. With z a cell's logit, BCE(z, y) = log1p(exp(-|z|)) + max(-z, 0) for y = 1, max(z, 0) for y = 0.
void score_rows(const Cells& cells, const SequenceTable& table, const torch::Tensor& logits_N, float* loss_U, float* accuracy_U) {
  const auto z_N = logits_N.to(torch::kFloat32).cpu().contiguous(), tail_N = z_N.abs().neg_().exp_().log1p_();
  const float *z = z_N.data_ptr<float>(), *tail = tail_N.data_ptr<float>();
  const auto positions = cells.length - 1;
  for (std::int64_t row = 0; row < cells.num_rows(); ++row) {
    const auto* cell_of = cells.cell_of.data() + row * positions;
    const auto rank = cells.ranks[static_cast<std::size_t>(row)];
    double loss = 0, right = 0;
    for (std::int64_t position = 0; position < positions; ++position) {
      const auto cell = cell_of[position];
      const float for_bit = table.bit(rank, position + 1) ? z[cell] : -z[cell];
      loss += tail[cell] + std::max(-for_bit, 0.0F);
      right += for_bit > 0 ? 1 : for_bit == 0 ? 0.5 : 0;
    }
    loss_U[row] = static_cast<float>(loss / static_cast<double>(positions));
    accuracy_U[row] = static_cast<float>(right / static_cast<double>(positions));
  }
}

}  // namespace

Scores score(Model& model, const SequenceTable& table, std::span<const std::int32_t> ranks, const Poll& poll, Sharing sharing) {
  torch::NoGradGuard no_grad;
  Scores scores{std::vector<float>(ranks.size()), std::vector<float>(ranks.size())};
  std::vector<std::size_t> sorted(ranks.size());
  std::iota(sorted.begin(), sorted.end(), std::size_t{0});
  std::sort(sorted.begin(), sorted.end(), [&](auto a, auto b) { return table.place(ranks[a]) < table.place(ranks[b]); });

  const auto& flat = model.parameters.flat_RP();
  const auto block = rows_per_block(model, table.length());
  std::vector<float> loss_U(block), accuracy_U(block);
  for (std::size_t begin = 0; begin < sorted.size(); begin += block) {
    if (poll) poll();
    const auto end = std::min(begin + block, sorted.size());
    std::vector<std::int32_t> block_ranks;
    for (auto i = begin; i < end; ++i) block_ranks.push_back(ranks[sorted[i]]);
    const std::vector<double> weight(block_ranks.size(), 1.0 / static_cast<double>(block_ranks.size()));
    const auto cells = cells_of_rows(table, std::move(block_ranks), weight, sharing);
    const auto logits_RN = model.predict(Rows({{&cells, &table}}, flat.scalar_type(), flat.device()));
    score_rows(cells, table, logits_RN.select(0, 0), loss_U.data(), accuracy_U.data());
    for (auto i = begin; i < end; ++i) {
      scores.loss[sorted[i]] = loss_U[i - begin];
      scores.accuracy[sorted[i]] = accuracy_U[i - begin];
    }
  }
  return scores;
}

std::vector<std::int32_t> strided_ranks(std::int64_t num_sequences, std::int64_t stride) {
  std::vector<std::int32_t> ranks;
  for (std::int64_t rank = 0; rank < num_sequences; rank += stride) ranks.push_back(static_cast<std::int32_t>(rank));
  return ranks;
}

}  // namespace mnemo
