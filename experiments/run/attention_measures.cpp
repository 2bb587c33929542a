#include "experiments/run/attention_measures.h"

#include <torch/torch.h>

#include <algorithm>
#include <limits>

// Shapes: B sequences of a block, H heads, L bits, S = 20 positions, n keys.

namespace mnemo {

using torch::Tensor;

namespace {

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
constexpr double kConstant = 1e-6;  // a row that varies less than this share of its size is constant up to rounding

/// A mean over sequences that skips NaN.
struct MeanWhereDefined {
  explicit MeanWhereDefined(const Shape& shape) : sum(torch::zeros(shape, torch::kFloat64)), count(torch::zeros(shape, torch::kFloat64)) {}

  /// Adds values [B, ...] to the elements that `part` picks.
  template <class Part>
  void add(const Tensor& values, Part&& part) {
    part(sum).add_(values.nan_to_num(0).sum(0).cpu());
    part(count).add_(values.isnan().logical_not().sum(0).cpu());
  }
  std::vector<float> mean() const {
    const auto mean = (sum / count).to(torch::kFloat32).contiguous();  // 0/0 is NaN
    return {mean.data_ptr<float>(), mean.data_ptr<float>() + mean.numel()};
  }

  Tensor sum, count;
};

/// Rows [..., n] with mean 0 and norm 1, so that their products are Pearson correlations; NaN for a constant row.
Tensor standardized(const Tensor& rows) {
  const auto exact = rows.to(torch::kFloat64);
  const auto centred = exact - exact.mean(-1, true);
  const auto norm = centred.norm(2, -1, true);
  return centred / norm.masked_fill(norm <= kConstant * exact.norm(2, -1, true), kNaN);
}

void add_vertical_bars(MeanWhereDefined& measure_HSS, const Tensor& maps_BHLL) {
  const auto L = maps_BHLL.size(2);
  for (std::int64_t i = 1; i < kAttentionPositions && kAttentionSpacing * i + 1 < L; ++i) {
    const auto s = kAttentionSpacing * i;
    const auto keys_BHLn = maps_BHLL.slice(3, 0, s);
    const auto later_BHTn = keys_BHLn.slice(2, s + 1, std::min(L, kAttentionSpacing * kAttentionPositions), kAttentionSpacing);
    const auto correlation_BHT = torch::matmul(standardized(later_BHTn), standardized(keys_BHLn.select(2, s)).unsqueeze(-1)).squeeze(-1);
    measure_HSS.add(correlation_BHT, [&](Tensor& all) { return all.select(1, i).slice(1, i, i + correlation_BHT.size(2)); });
  }
}

void add_decorrelation(MeanWhereDefined& measure_SHH, const Tensor& maps_BHLL) {
  for (std::int64_t i = 1; i < kAttentionPositions && kAttentionSpacing * i < maps_BHLL.size(2); ++i) {
    const auto t = kAttentionSpacing * i;
    const auto rows_BHn = standardized(maps_BHLL.select(2, t).slice(2, 0, t));
    measure_SHH.add(torch::matmul(rows_BHn, rows_BHn.transpose(1, 2)), [&](Tensor& all) { return all[i]; });
  }
}

}  // namespace

Shape attention_measure_shape(const std::string& name, const ModelFacts& model, std::int64_t length, std::int64_t num_ranks) {
  const auto heads = model.attention_heads;
  Shape shape{std::min(num_ranks, kKeptAttentionMaps), heads, length, length};
  if (name == "vertical_bars") shape = {heads, kAttentionPositions, kAttentionPositions};
  if (name == "decorrelation") shape = {kAttentionPositions, heads, heads};
  if (model.attention_by_layer) shape.insert(shape.begin(), model.attention_layers);
  return shape;
}

namespace {

/// What is measured of one layer.
struct LayerMeasures {
  explicit LayerMeasures(std::int64_t heads)
      : vertical_bars({heads, kAttentionPositions, kAttentionPositions}), decorrelation({kAttentionPositions, heads, heads}) {}

  MeanWhereDefined vertical_bars, decorrelation;
  std::vector<float> maps;
};

}  // namespace

std::vector<std::vector<float>> measure_attention(const Model& model, const SequenceTable& table, std::span<const std::int32_t> ranks,
                                                  const std::vector<std::string>& names, const Poll& poll) {
  torch::NoGradGuard no_grad;
  const auto wanted = [&](const char* name) { return std::find(names.begin(), names.end(), name) != names.end(); };
  const bool bars = wanted("vertical_bars"), heads_too = wanted("decorrelation");
  const auto L = table.length(), H = model.facts.attention_heads, given = static_cast<std::int64_t>(ranks.size());
  std::vector<LayerMeasures> layers;
  for (std::int64_t layer = 0; layer < model.facts.attention_layers; ++layer) layers.emplace_back(H);
  const auto num_maps = wanted("attn_reps") ? std::min(given, kKeptAttentionMaps) : 0;
  const auto total = bars || heads_too ? std::min(given, kAveragedSequences) : num_maps;
  const auto block = std::clamp<std::int64_t>((1 << 22) / (std::ssize(layers) * H * L * L), 1, 256);
  for (std::int64_t begin = 0; begin < total; begin += block) {
    if (poll) poll();
    const auto count = std::min(block, total - begin);
    auto bits_BL = torch::empty({count, L}, torch::kUInt8);
    table.unpack(ranks.subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(count)), bits_BL.data_ptr<std::uint8_t>());
    const auto maps_of_layers = model.attention_maps(bits_BL.unsqueeze(0).to(model.parameters.flat_RP().device()));
    for (std::size_t layer = 0; layer < layers.size(); ++layer) {
      const auto maps_BHLL = maps_of_layers[layer][0];
      auto& measures = layers[layer];
      if (bars) add_vertical_bars(measures.vertical_bars, maps_BHLL);
      if (heads_too) add_decorrelation(measures.decorrelation, maps_BHLL);
      if (begin < num_maps) {
        const auto kept = maps_BHLL.slice(0, 0, num_maps - begin).to(torch::kFloat32).cpu().contiguous();
        measures.maps.insert(measures.maps.end(), kept.data_ptr<float>(), kept.data_ptr<float>() + kept.numel());
      }
    }
  }
  std::vector<std::vector<float>> measures(names.size());
  for (std::size_t i = 0; i < names.size(); ++i) {
    for (const auto& layer : layers) {
      const auto& name = names[i];
      const auto values = name == "vertical_bars" ? layer.vertical_bars.mean() : name == "decorrelation" ? layer.decorrelation.mean() : layer.maps;
      measures[i].insert(measures[i].end(), values.begin(), values.end());
    }
  }
  return measures;
}

}  // namespace mnemo
