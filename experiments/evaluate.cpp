#include "experiments/evaluate.h"

#include "core/rows.h"

#include <torch/torch.h>

#include <algorithm>
#include <numeric>
#include <optional>

namespace mnemo {

namespace {

/// Rows of a block: as many as keep the largest activation near 16 MB.
std::size_t rows_per_block(const Model& model, std::int64_t length) {
  return static_cast<std::size_t>(std::clamp<std::int64_t>((1 << 22) / (length * model.activation_width(length)), 1, 8192));
}

/// A prediction's loss, whether it is right (a tie counts half), and whether the bit is the one that greedy continuation takes.
struct Prediction {
  double loss, right;
  bool greedy;
};

/// BCE(z, y) = log1p(exp(-|z|)) + max(-z, 0) for y = 1, max(z, 0) for y = 0; `tail` is the first term.
Prediction score_prediction(float z, float tail, bool bit) {
  const float for_bit = bit ? z : -z;
  return {tail + std::max(-for_bit, 0.0F), for_bit > 0 ? 1 : for_bit == 0 ? 0.5 : 0, (z > 0) == bit};
}

/// Means over the ranks of each bin, position by position.
class PositionMeans {
 public:
  explicit PositionMeans(const SequenceTable& table)
      : bins_(rank_bins(table.num_sequences())), positions_(static_cast<std::size_t>(table.length() - 1)),
        sums_(bins_.size() * positions_), counts_(bins_.size()) {}

  /// The sums of a further rank's bin, by position.
  double* sums_of(std::int32_t rank) {
    const auto bin = static_cast<std::size_t>(std::find_if(bins_.begin(), bins_.end(), [&](const auto& b) { return rank < b.second; }) - bins_.begin());
    ++counts_[bin];
    return sums_.data() + bin * positions_;
  }
  std::vector<float> means() const {
    std::vector<float> means;
    for (std::size_t i = 0; i < sums_.size(); ++i) means.push_back(static_cast<float>(sums_[i] / counts_[i / positions_]));
    return means;
  }

 private:
  std::vector<RankBin> bins_;
  std::size_t positions_;
  std::vector<double> sums_, counts_;
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
  PositionMeans loss_means(table), accuracy_means(table);
  std::vector<std::size_t> sorted(ranks.size());
  std::iota(sorted.begin(), sorted.end(), std::size_t{0});
  std::sort(sorted.begin(), sorted.end(), [&](auto a, auto b) { return table.place(ranks[a]) < table.place(ranks[b]); });

  const auto& flat = model.parameters.flat_RP();
  const auto positions = table.length() - 1;
  const auto block = rows_per_block(model, table.length());
  for (std::size_t begin = 0; begin < sorted.size(); begin += block) {
    if (poll) poll();
    const auto end = std::min(begin + block, sorted.size());
    std::vector<std::int32_t> block_ranks;
    for (auto i = begin; i < end; ++i) block_ranks.push_back(ranks[sorted[i]]);
    const std::vector<double> weight(block_ranks.size(), 1.0 / static_cast<double>(block_ranks.size()));
    const auto cells = cells_of_rows(table, std::move(block_ranks), weight, options.sharing);
    const auto logits_RN = model.predict(Rows({{&cells, &table}}, flat.scalar_type(), flat.device()));

    const auto z_N = logits_RN.select(0, 0).to(torch::kFloat32).cpu().contiguous(), tail_N = z_N.abs().neg_().exp_().log1p_();
    const float *z = z_N.data_ptr<float>(), *tail = tail_N.data_ptr<float>();
    for (auto i = begin; i < end; ++i) {
      const auto rank = ranks[sorted[i]];
      const auto* cell_of = cells.cell_of.data() + static_cast<std::int64_t>(i - begin) * positions;
      double* const loss_sums = options.by_position ? loss_means.sums_of(rank) : nullptr;
      double* const right_sums = options.by_position ? accuracy_means.sums_of(rank) : nullptr;
      double loss = 0, right = 0;
      bool completed = true;
      for (std::int64_t position = 0; position < positions; ++position) {
        const auto [cost, hit, greedy] = score_prediction(z[cell_of[position]], tail[cell_of[position]], table.bit(rank, position + 1));
        loss += cost;
        right += hit;
        completed = completed && (greedy || position + 1 < options.completion_prefix);
        if (!options.by_position) continue;
        loss_sums[position] += cost;
        right_sums[position] += hit;
      }
      scores.loss[sorted[i]] = static_cast<float>(loss / static_cast<double>(positions));
      scores.accuracy[sorted[i]] = static_cast<float>(right / static_cast<double>(positions));
      if (options.completion_prefix > 0) scores.completed[sorted[i]] = completed;
    }
  }
  if (options.by_position) {
    scores.loss_by_position = loss_means.means();
    scores.accuracy_by_position = accuracy_means.means();
  }
  return scores;
}

std::vector<std::int32_t> strided_ranks(std::int64_t num_sequences, std::int64_t stride) {
  std::vector<std::int32_t> ranks;
  for (std::int64_t rank = 0; rank < num_sequences; rank += stride) ranks.push_back(static_cast<std::int32_t>(rank));
  return ranks;
}

}  // namespace mnemo
