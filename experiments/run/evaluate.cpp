#include "experiments/run/evaluate.h"

#include "core/cell_batch.h"
#include "core/gpu.h"

#include <torch/torch.h>

#include <algorithm>
#include <numeric>

namespace mnemo {

namespace {

/// Rows of a block: as many as keep the largest activation near 16 MB, so that it stays in the cache of a CPU; on a GPU near a 64th of the free
/// memory, since every block waits for it.
std::size_t rows_per_block(const Model& model, std::int64_t length) {
  const auto device = model.parameters.flat_RP().device();
  const auto bytes = device.is_cpu() ? std::size_t{1} << 24 : std::max(std::size_t{1} << 24, gpu_memory(device.index()).free / 64);
  const auto rows = static_cast<std::int64_t>(bytes / sizeof(float)) / (length * model.activation_width(length));
  return static_cast<std::size_t>(std::clamp<std::int64_t>(rows, 1, device.is_cpu() ? 8192 : 1 << 17));
}

/// Whether every bit from `prefix` on is the one that greedy continuation takes: the likelier one, or 0 in a tie.
bool completes(const SequenceTable& table, std::int32_t rank, std::int64_t prefix, std::int64_t first_predicted_bit, const float* right) {
  for (auto bit = prefix; bit < table.length(); ++bit) {
    const auto hit = right[bit - first_predicted_bit];
    if (hit < 0.5F || (hit == 0.5F && table.bit(rank, bit))) return false;
  }
  return true;
}

/// Means over the ranks of each bin, position by position.
class PositionMeans {
 public:
  PositionMeans(const SequenceTable& table, std::int64_t positions)
      : bins_(rank_bins(table.num_sequences())),
        positions_(static_cast<std::size_t>(positions)),
        sums_(bins_.size() * positions_),
        counts_(bins_.size()) {}

  void add(std::int32_t rank, const float* values) {
    const auto bin =
        static_cast<std::size_t>(std::find_if(bins_.begin(), bins_.end(), [&](const auto& b) { return rank < b.second; }) - bins_.begin());
    ++counts_[bin];
    for (std::size_t i = 0; i < positions_; ++i) sums_[bin * positions_ + i] += values[i];
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

double mean_of(std::span<const float> values) { return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size()); }

std::vector<RankBin> rank_bins(std::int64_t num_sequences) {
  std::vector<RankBin> bins;
  for (std::int64_t begin = 0, end = 10; begin < num_sequences; begin = end, end *= 10) bins.emplace_back(begin, std::min(end, num_sequences));
  return bins;
}

Scores score(Model& model, const SequenceTable& table, std::span<const std::int32_t> ranks, const Poll& poll, const ScoreOptions& options) {
  torch::NoGradGuard no_grad;
  Scores scores{std::vector<float>(ranks.size()), std::vector<float>(ranks.size()), {}, {}, {}};
  if (options.completion_prefix > 0) scores.completed.resize(ranks.size());
  std::vector<std::size_t> sorted(ranks.size());
  std::iota(sorted.begin(), sorted.end(), std::size_t{0});
  RarePoll rare(poll);
  std::sort(sorted.begin(), sorted.end(), [&](auto a, auto b) {
    rare();
    return table.place(ranks[a]) < table.place(ranks[b]);
  });

  const auto& flat = model.parameters.flat_RP();
  const auto first = model.facts.first_predicted_bit, positions = table.length() - first;
  PositionMeans loss_means(table, positions), accuracy_means(table, positions);
  const auto block = rows_per_block(model, table.length());
  for (std::size_t begin = 0; begin < sorted.size(); begin += block) {
    if (poll) poll();
    const auto end = std::min(begin + block, sorted.size());
    std::vector<std::int32_t> block_ranks;
    for (auto i = begin; i < end; ++i) block_ranks.push_back(ranks[sorted[i]]);
    const std::vector<double> shares(block_ranks.size(), 1.0 / static_cast<double>(block_ranks.size()));
    const auto cells = cells_of_rows(table, std::move(block_ranks), shares, options.sharing, first);
    const auto predictions = model.score(CellBatch({{&cells, &table}}, flat.scalar_type(), flat.device()));
    const auto loss_UP = predictions.loss_RUP[0].to(torch::kCPU, torch::kFloat32),
               right_UP = predictions.accuracy_RUP[0].to(torch::kCPU, torch::kFloat32);
    const float *loss = loss_UP.data_ptr<float>(), *right = right_UP.data_ptr<float>();
    for (auto i = begin; i < end; ++i, loss += positions, right += positions) {
      const auto rank = ranks[sorted[i]];
      scores.loss[sorted[i]] = static_cast<float>(mean_of({loss, static_cast<std::size_t>(positions)}));
      scores.accuracy[sorted[i]] = static_cast<float>(mean_of({right, static_cast<std::size_t>(positions)}));
      if (options.by_position) {
        loss_means.add(rank, loss);
        accuracy_means.add(rank, right);
      }
      if (options.completion_prefix > 0) scores.completed[sorted[i]] = completes(table, rank, options.completion_prefix, first, right);
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
