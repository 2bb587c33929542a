#pragma once

// One small configuration of every model in the registry, and batches for them.

#include "core/batches.h"
#include "core/cell_batch.h"
#include "core/zipf.h"
#include "models/make_model.h"
#include "test_device.h"

#include <torch/torch.h>

#include <string>
#include <utility>
#include <vector>

namespace mnemo {

/// Every alternative of ModelConfig must have an entry: a test checks it.
inline std::vector<std::pair<std::string, ModelConfig>> small_models() {
  OneLayerAttentionConfig narrow, wide, tiny, dense;
  narrow.heads = 2;
  narrow.head_dim = 4;
  wide.heads = 3;
  wide.head_dim = 5;
  wide.mlp_width = 9;
  wide.mlp_layers = 1;
  tiny.heads = tiny.head_dim = 1;
  tiny.mlp_layers = 8;
  dense = narrow;
  dense.attention = "dense";
  GptConfig learned, rope, tiny_gpt;
  learned.layers = 2;
  learned.heads = 2;
  learned.head_dim = 4;
  rope = learned;
  rope.heads = 3;
  rope.position = "rope";
  tiny_gpt.layers = tiny_gpt.heads = 1;
  tiny_gpt.head_dim = 3;
  DamConfig dam, first_bit, one_head, retrieval;
  dam.heads = 3;
  dam.eta = 4;
  dam.init_std = 0.02;
  first_bit = one_head = retrieval = dam;
  first_bit.positions = "from_0";
  first_bit.probabilities = "clamped";
  one_head.heads = 1;
  one_head.capacity = 7;
  retrieval.objective = "retrieval";
  PrefixReadoutConfig readout, readouts;
  readout.features = 3;
  readout.init_std = 0.02;
  readouts = readout;
  readouts.readout = "per_position";
  return {{"one_layer_attention 2x4", narrow},
          {"one_layer_attention 2x4, dense", dense},
          {"one_layer_attention 3x5, D=9, 1 layer", wide},
          {"one_layer_attention 1x1, 8 layers", tiny},
          {"gpt 2 layers 2x4", learned},
          {"gpt 2 layers 3x4, rope", rope},
          {"gpt 1 layer 1x3", tiny_gpt},
          {"dam 3 heads", dam},
          {"dam 3 heads, from_0, clamped", first_bit},
          {"dam 1 head, 7 slots", one_head},
          {"dam retrieval", retrieval},
          {"prefix_readout 3", readout},
          {"prefix_readout per position", readouts}};
}

/// A Zipf batch of a random table.
class TestBatch {
 public:
  TestBatch(std::int64_t num_sequences, std::int64_t length, std::int64_t batch, std::uint32_t seed = 0)
      : table_(SequenceTable::random(seed, 0, num_sequences, length)), sampler_(RankSampler::zipf(num_sequences, 1)) {
    DrawStream draws(sampler_, seed, batch);
    const auto ranks = draws.ranks(0);
    drawn_.assign(ranks.begin(), ranks.end());
  }
  explicit TestBatch(SequenceTable table) : table_(std::move(table)), sampler_(RankSampler::zipf(table_.num_sequences(), 0)) {
    for (std::int32_t rank = 0; rank < table_.num_sequences(); ++rank) drawn_.push_back(rank);
  }

  /// Valid until the next call.
  CellBatch rows(torch::Dtype dtype, Sharing sharing = Sharing::prefixes, std::int64_t first_predicted_bit = 1) const {
    cells_ = cells_of_batch(table_, drawn_, sharing, first_predicted_bit);
    return CellBatch({{&cells_, &table_}}, dtype, test_device());
  }
  CellBatch rows_for(const Model& model, Sharing sharing = Sharing::prefixes) const {
    return rows(model.parameters.flat_RP().scalar_type(), sharing, model.facts.first_predicted_bit);
  }
  const SequenceTable& table() const { return table_; }
  const RankSampler& sampler() const { return sampler_; }

 private:
  SequenceTable table_;
  RankSampler sampler_;
  std::vector<std::int32_t> drawn_;
  mutable Cells cells_;
};

/// A model with its weights spread wide enough that attention and relus matter, and a memory of a dozen sequences if it has one.
inline std::unique_ptr<Model> lively_model(const ModelConfig& config, std::int64_t length, torch::Dtype dtype, std::uint32_t seed = 1) {
  auto seeded = config;
  seed_of(seeded) = seed;
  auto model = make_model({&seeded, 1}, length, dtype, test_device());
  torch::NoGradGuard no_grad;
  const auto& specs = model->parameters.specs();
  for (std::size_t i = 0; i < specs.size(); ++i) {
    const auto& leaf = model->parameters.leaf(i);
    if (specs[i].init == ParameterSpec::Init::normal)
      leaf.mul_(25);  // std .5
    else
      leaf.add_(0.1 * torch::cos(torch::arange(leaf.numel(), leaf.options().requires_grad(false))).view(leaf.sizes()));
  }
  const auto bits = SequenceTable::random(77, 0, 12, length).unpack_all();
  if (auto* memory = model->memory()) memory->set_bits(0, torch::from_blob(const_cast<std::uint8_t*>(bits.data()), {12, length}, torch::kUInt8));
  return model;
}

}  // namespace mnemo
