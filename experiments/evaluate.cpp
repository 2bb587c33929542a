#include "experiments/evaluate.h"

#include "core/batches.h"
#include "core/rows.h"

#include <torch/torch.h>

#include <algorithm>
#include <numeric>

namespace mnemo {

namespace {

/// Rows of a block: as many as keep the largest activation near 16 MB.
std::size_t rows_per_block(const Model& model, const SequenceTable& table) {
  std::int64_t widest = table.length();
  for (const auto& spec : model.parameters.specs()) widest = std::max(widest, spec.shape[0]);
  return static_cast<std::size_t>(std::clamp<std::int64_t>((1 << 22) / (table.length() * widest), 1, 1024));
}

}  // namespace

Scores score(Model& model, const SequenceTable& table, std::span<const std::int32_t> ranks, const Poll& poll) {
  torch::NoGradGuard no_grad;
  Scores scores{std::vector<float>(ranks.size()), std::vector<float>(ranks.size())};
  std::vector<std::size_t> sorted(ranks.size());
  std::iota(sorted.begin(), sorted.end(), std::size_t{0});
  std::sort(sorted.begin(), sorted.end(), [&](auto a, auto b) { return table.place(ranks[a]) < table.place(ranks[b]); });

  const auto& flat = model.parameters.flat_RP();
  const auto block = rows_per_block(model, table);
  for (std::size_t begin = 0; begin < sorted.size(); begin += block) {
    if (poll) poll();
    const auto end = std::min(begin + block, sorted.size());
    std::vector<std::int32_t> block_ranks;
    for (auto i = begin; i < end; ++i) block_ranks.push_back(ranks[sorted[i]]);
    const std::vector<double> weight(block_ranks.size(), 1.0 / static_cast<double>(block_ranks.size()));
    const auto cells = cells_of_rows(table, std::move(block_ranks), weight, Sharing::prefixes, model.first_position());
    const auto [loss_RUP, accuracy_RUP] = model.score(Rows({{&cells, &table}}, flat.scalar_type(), flat.device()));
    const auto loss_U = loss_RUP[0].to(torch::kFloat64).mean(1).to(torch::kFloat32).cpu();
    const auto accuracy_U = accuracy_RUP[0].to(torch::kFloat64).mean(1).to(torch::kFloat32).cpu();
    for (auto i = begin; i < end; ++i) {
      scores.loss[sorted[i]] = loss_U.data_ptr<float>()[i - begin];
      scores.accuracy[sorted[i]] = accuracy_U.data_ptr<float>()[i - begin];
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
