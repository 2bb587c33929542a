#include "experiments/evaluate.h"

#include "core/batches.h"
#include "core/loss.h"
#include "core/rows.h"

#include <torch/torch.h>

#include <algorithm>
#include <numeric>
#include <optional>

namespace mnemo {

namespace {

/// Rows of a block: as many as keep the largest activation near 16 MB.
std::size_t rows_per_block(const Model& model, const SequenceTable& table) {
  std::int64_t widest = table.length();
  for (const auto& spec : model.parameters.specs()) widest = std::max(widest, spec.shape[0]);
  return static_cast<std::size_t>(std::clamp<std::int64_t>((1 << 22) / (table.length() * widest), 1, 1024));
}

/// Means over the ranks of each bin, position by position.
class PositionMeans {
 public:
  explicit PositionMeans(const SequenceTable& table)
      : bins_(rank_bins(table.num_sequences())), sum_EP_(torch::zeros({std::ssize(bins_), table.length() - 1}, torch::kFloat64)),
        count_E1_(torch::zeros({std::ssize(bins_), 1}, torch::kFloat64)) {}

  void add(const std::vector<std::int32_t>& ranks, const torch::Tensor& values_UP) {
    std::vector<std::int64_t> bin_of;
    for (const auto rank : ranks) {
      bin_of.push_back(std::find_if(bins_.begin(), bins_.end(), [&](const auto& bin) { return rank < bin.second; }) - bins_.begin());
    }
    const auto bin_U = torch::tensor(torch::ArrayRef<std::int64_t>(bin_of), torch::kInt64);
    sum_EP_.index_add_(0, bin_U, values_UP.to(torch::kFloat64).cpu());
    count_E1_.index_add_(0, bin_U, torch::ones({bin_U.size(0), 1}, torch::kFloat64));
  }
  std::vector<float> means() const {
    const auto means = (sum_EP_ / count_E1_).to(torch::kFloat32).contiguous();
    return {means.data_ptr<float>(), means.data_ptr<float>() + means.numel()};
  }

 private:
  std::vector<RankBin> bins_;
  torch::Tensor sum_EP_, count_E1_;
};

}  // namespace

std::vector<RankBin> rank_bins(std::int64_t num_sequences) {
  std::vector<RankBin> bins;
  for (std::int64_t begin = 0, end = 10; begin < num_sequences; begin = end, end *= 10) bins.emplace_back(begin, std::min(end, num_sequences));
  return bins;
}

Scores score(Model& model, const SequenceTable& table, std::span<const std::int32_t> ranks, const Poll& poll, const ScoreOptions& options) {
  torch::NoGradGuard no_grad;
  Scores scores{std::vector<float>(ranks.size()), std::vector<float>(ranks.size()), {}, {}, {}};
  if (options.completion_prefix > 0) scores.completed.resize(ranks.size());
  std::optional<PositionMeans> loss_means, accuracy_means;
  if (options.by_position) {
    loss_means.emplace(table);
    accuracy_means.emplace(table);
  }
  std::vector<std::size_t> sorted(ranks.size());
  std::iota(sorted.begin(), sorted.end(), std::size_t{0});
  std::sort(sorted.begin(), sorted.end(), [&](auto a, auto b) { return table.place(ranks[a]) < table.place(ranks[b]); });

  const auto& flat = model.parameters.flat_RP();
  const auto positions = table.length() - 1;
  const auto block = rows_per_block(model, table);
  for (std::size_t begin = 0; begin < sorted.size(); begin += block) {
    if (poll) poll();
    const auto end = std::min(begin + block, sorted.size());
    std::vector<std::int32_t> block_ranks;
    for (auto i = begin; i < end; ++i) block_ranks.push_back(ranks[sorted[i]]);
    const std::vector<double> weight(block_ranks.size(), 1.0 / static_cast<double>(block_ranks.size()));
    const auto cells = cells_of_rows(table, std::move(block_ranks), weight);
    const Rows rows({{&cells, &table}}, flat.scalar_type(), flat.device());

    const auto num_rows = cells.num_rows();
    const auto cell_of_UP = torch::tensor(torch::ArrayRef<std::int32_t>(cells.cell_of), torch::kInt32).to(flat.device());
    const auto logits_UP = model.predict(rows).select(0, 0).index_select(0, cell_of_UP).view({num_rows, positions});
    const auto next_UP = rows.tensors().bits_RUL.select(0, 0).slice(1, 1);
    const auto loss_UP = torch::where(next_UP.to(torch::kBool), bce_of_one(logits_UP), bce_of_zero(logits_UP));
    const auto loss_U = loss_UP.to(torch::kFloat64).mean(1).to(torch::kFloat32).cpu();
    const auto accuracy_UP = accuracy_of(logits_UP, next_UP);
    const auto accuracy_U = accuracy_UP.to(torch::kFloat64).mean(1).to(torch::kFloat32).cpu();
    for (auto i = begin; i < end; ++i) {
      scores.loss[sorted[i]] = loss_U.data_ptr<float>()[i - begin];
      scores.accuracy[sorted[i]] = accuracy_U.data_ptr<float>()[i - begin];
    }
    if (options.by_position) {
      loss_means->add(cells.ranks, loss_UP);
      accuracy_means->add(cells.ranks, accuracy_UP);
    }
    if (options.completion_prefix > 0) {
      const auto is_greedy_UP = (logits_UP > 0) == next_UP.to(torch::kBool);
      const auto completed_U = is_greedy_UP.slice(1, options.completion_prefix - 1).all(1).to(torch::kUInt8).cpu();
      for (auto i = begin; i < end; ++i) scores.completed[sorted[i]] = completed_U.data_ptr<std::uint8_t>()[i - begin];
    }
  }
  if (options.by_position) {
    scores.loss_by_position = loss_means->means();
    scores.accuracy_by_position = accuracy_means->means();
  }
  return scores;
}

std::vector<std::int32_t> strided_ranks(std::int64_t num_sequences, std::int64_t stride) {
  std::vector<std::int32_t> ranks;
  for (std::int64_t rank = 0; rank < num_sequences; rank += stride) ranks.push_back(static_cast<std::int32_t>(rank));
  return ranks;
}

}  // namespace mnemo
