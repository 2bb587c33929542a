#include "models/gpt.h"

#include "core/loss.h"
#include "models/gpt_cells.h"
#include "models/layers.h"
#include "models/model.h"

#include <fmt/format.h>
#include <torch/torch.h>

#include <cmath>

// Shapes: R replicas, U rows, L bits, P = L-1 positions with a prediction, N cells, H heads of F, C = H F.

namespace mnemo {

using torch::Tensor;

/// The products of a block and attention.
double GptConfig::nanoseconds_of_prediction(std::int64_t length, std::int64_t) const {
  const auto C = static_cast<double>(width());
  return 100 + static_cast<double>(layers) * (12 * C * C / 10 + C * static_cast<double>(length) / 5);
}

std::vector<std::pair<std::string, std::string>> GptConfig::problems(std::int64_t length) const {
  std::vector<std::pair<std::string, std::string>> found;
  const auto C = static_cast<double>(heads) * static_cast<double>(head_dim);
  const auto parameters = static_cast<double>(layers) * 12 * C * C + static_cast<double>(length) * C;
  if (const auto what = too_many_parameters(parameters); !what.empty()) found.emplace_back("head_dim", what);
  if (!learns_positions() && head_dim % 2 != 0) {
    found.emplace_back("head_dim", fmt::format("position: rope rotates pairs of features, so that head_dim must be even, got {}", head_dim));
  }
  return found;
}

ModelFacts facts_of(const GptConfig& config, std::int64_t length) {
  using Init = ParameterSpec::Init;
  const auto C = config.width();
  ModelFacts facts;
  facts.text = fmt::format("{} layers, {} heads x {}, {} positions", config.layers, config.heads, config.head_dim,
                           config.learns_positions() ? "learned" : "rotary");
  facts.attention_layers = config.layers;
  facts.attention_heads = config.heads;
  facts.attention_by_layer = true;
  facts.hidden_widths.assign(static_cast<std::size_t>(config.layers) + 1, C);
  auto& specs = facts.parameters;
  const auto add_linear = [&](const std::string& name, const char* group, std::int64_t out, std::int64_t in, double std) {
    specs.push_back({name + ".weight", group, {out, in}, Init::normal, std});
    specs.push_back({name + ".bias", group, {out}, Init::zeros});
  };
  const auto add_norm = [&](const std::string& name) {
    specs.push_back({name + ".weight", "ln", {C}, Init::ones});
    specs.push_back({name + ".bias", "ln", {C}, Init::zeros});
  };
  const auto std = config.init_std, into_stream = std / std::sqrt(2 * static_cast<double>(config.layers));
  specs.push_back({"transformer.wte.weight", "embeddings", {2, C}, Init::normal, std});
  if (config.learns_positions()) specs.push_back({"transformer.wpe.weight", "embeddings", {length, C}, Init::normal, std});
  for (std::int64_t layer = 0; layer < config.layers; ++layer) {
    const auto block = fmt::format("transformer.h.{}.", layer);
    add_norm(block + "ln_1");
    add_linear(block + "attn.c_attn", "c_attn", 3 * C, C, std);
    add_linear(block + "attn.c_proj", "c_proj", C, C, into_stream);
    add_norm(block + "ln_2");
    add_linear(block + "mlp.c_fc", "mlp", 4 * C, C, std);
    add_linear(block + "mlp.c_proj", "mlp", C, 4 * C, into_stream);
  }
  add_norm("transformer.ln_f");
  add_linear("lm_head", "lm_head", 2, C, std);
  return facts;
}

namespace {

/// MATHS 3. logits() is the plain LibTorch composition over all rows and positions. On the CPU gradient() and predict() go over distinct cells; on a
/// GPU a step is recorded as the plain composition, whose buffers have room for a batch without repeats anyway.
class Gpt final : public Model {
 public:
  Gpt(const GptConfig& config, ModelFacts f, Parameters p) : Model(std::move(f), std::move(p)), config_(config) {}

  std::unique_ptr<Model> replica(std::int64_t r) const override;

  Tensor logits(const CellBatch& batch) override;
  Tensor predict(const CellBatch& batch) override;
  Losses gradient(const CellBatch& batch) override;
  std::string form() const override;
  std::int64_t activation_width(std::int64_t length) const override;

  /// The residual stream after each block, and the output of ln_f, [R, N, C] each.
  std::vector<Tensor> hidden_layers(const CellBatch& batch) const override;
  std::vector<Tensor> attention_maps(const Tensor& bits_RUL) const override;

 private:
  /// What take(index of a parameter) returns, by its place in the model.
  template <class Take>
  GptTensors tensors(const Take& take) const;
  GptTensors leaves() const;
  /// The residual stream [R, U P, C] after all blocks, of bits [R, U, P]; adds that after each, and each one's attention, where asked for.
  Tensor residual_stream(const GptTensors& weights, const Tensor& bits_RUP, std::vector<Tensor>* streams, std::vector<Tensor>* maps) const;

  GptConfig config_;
};

}  // namespace

std::unique_ptr<Model> construct(const std::vector<GptConfig>& replicas, ModelFacts facts, Parameters parameters) {
  return std::make_unique<Gpt>(replicas[0], std::move(facts), std::move(parameters));
}

std::unique_ptr<Model> Gpt::replica(std::int64_t r) const {
  auto one = std::make_unique<Gpt>(config_, facts, parameters.replica(r));
  one->forms = forms;
  return one;
}

template <class Take>
GptTensors Gpt::tensors(const Take& take) const {
  GptTensors all;
  std::size_t next = 0;  // in the order of the facts
  const auto fill = [&](Affine& layer) {
    layer.weight = take(next++);
    layer.bias = take(next++);
  };
  all.wte = take(next++);
  if (config_.learns_positions()) all.wpe = take(next++);
  all.blocks.resize(static_cast<std::size_t>(config_.layers));
  for (auto& block : all.blocks) {
    for (auto* layer : {&block.ln_1, &block.c_attn, &block.attention_c_proj, &block.ln_2, &block.c_fc, &block.mlp_c_proj}) fill(*layer);
  }
  fill(all.ln_f);
  fill(all.lm_head);
  return all;
}

GptTensors Gpt::leaves() const {
  return tensors([this](std::size_t index) { return parameters.leaf(index); });
}

// ---- the plain form

Tensor Gpt::residual_stream(const GptTensors& weights, const Tensor& bits_RUP, std::vector<Tensor>* streams, std::vector<Tensor>* maps) const {
  const auto U = bits_RUP.size(1), P = bits_RUP.size(2);
  Rotation rotation;
  if (!config_.learns_positions()) {
    rotation = rotation_of(torch::arange(P, bits_RUP.options().dtype(torch::kInt64)), config_.head_dim, weights.wte.scalar_type());
  }
  auto x = embedded(bits_RUP, weights.wte, weights.wpe).flatten(1, 2);
  for (const auto& block : weights.blocks) {
    const auto qkv = split_heads(linear(layer_norm(x, block.ln_1), block.c_attn), U, P, config_.heads);
    const auto turned = [&](const Tensor& part) { return rotation.cos.defined() ? rotated(part, rotation) : part; };
    const auto attention = causal_attention(turned(qkv[0]), turned(qkv[1]));
    x = x + linear(join_heads(torch::matmul(attention, qkv[2])).flatten(1, 2), block.attention_c_proj);
    x = x + linear(torch::gelu(linear(layer_norm(x, block.ln_2), block.c_fc)), block.mlp_c_proj);
    if (maps != nullptr) maps->push_back(attention);
    if (streams != nullptr) streams->push_back(x);
  }
  return x;
}

Tensor Gpt::logits(const CellBatch& batch) {
  const auto& [bits_RUL, cell_RN, weight_RN2] = batch.tensors();
  const auto weights = leaves();
  const auto stream = residual_stream(weights, bits_RUL.slice(2, 0, batch.length() - 1), nullptr, nullptr);
  const auto z = linear(layer_norm(stream, weights.ln_f), weights.lm_head);  // [R, U P, 2]
  return (z.select(2, 1) - z.select(2, 0)).gather(1, cell_RN);
}

std::vector<Tensor> Gpt::hidden_layers(const CellBatch& batch) const {
  const auto& [bits_RUL, cell_RN, weight_RN2] = batch.tensors();
  const auto weights = leaves();
  std::vector<Tensor> layers;
  const auto stream = residual_stream(weights, bits_RUL.slice(2, 0, batch.length() - 1), &layers, nullptr);
  layers.push_back(layer_norm(stream, weights.ln_f));
  const auto cell = cell_RN.unsqueeze(2).expand({-1, -1, config_.width()});
  for (auto& layer : layers) layer = layer.gather(1, cell);
  return layers;
}

std::vector<Tensor> Gpt::attention_maps(const Tensor& bits_RUL) const {
  std::vector<Tensor> maps;
  residual_stream(leaves(), bits_RUL, nullptr, &maps);
  return maps;
}

// ---- over distinct cells

std::string Gpt::form() const { return kernels_on_cpu() ? "blocks over distinct prefixes" : Model::form(); }

std::int64_t Gpt::activation_width(std::int64_t length) const { return std::max(4 * config_.width(), kernels_on_cpu() ? 0 : config_.heads * length); }

Tensor Gpt::predict(const CellBatch& batch) {
  if (!kernels_on_cpu()) return Model::predict(batch);
  torch::NoGradGuard no_grad;
  const auto logits_RN = torch::zeros({batch.num_replicas(), batch.num_cells()}, parameters.flat_RP().options());
  for (std::int64_t r = 0; r < batch.num_replicas(); ++r) {
    const auto& [cells, table] = batch.replicas()[static_cast<std::size_t>(r)];
    if (cells->num_cells() == 0) continue;
    const auto weights = tensors([&](std::size_t index) { return parameters.leaf(index)[r]; });
    logits_RN[r].slice(0, 0, cells->num_cells()).copy_(GptCells(weights, config_.heads, *cells, *table, /*keep=*/false).logits());
  }
  return logits_RN;
}

Losses Gpt::gradient(const CellBatch& batch) {
  if (!kernels_on_cpu()) return plain_gradient(batch);
  torch::NoGradGuard no_grad;
  parameters.zero_gradient();
  const auto R = batch.num_replicas();
  const Losses losses{torch::zeros({R}, torch::kFloat64), torch::zeros({R}, torch::kFloat64)};
  for (std::int64_t r = 0; r < R; ++r) {
    const auto& [cells, table] = batch.replicas()[static_cast<std::size_t>(r)];
    if (cells->num_cells() == 0) continue;
    const auto weights = tensors([&](std::size_t index) { return parameters.leaf(index)[r]; });
    GptCells pass(weights, config_.heads, *cells, *table, /*keep=*/true);
    const auto weight_RN2 = torch::tensor(torch::ArrayRef<double>(cells->weight), weights.wte.scalar_type()).view({1, -1, 2});
    const auto loss = weighted_loss(pass.logits().unsqueeze(0), weight_RN2, max_loss());
    pass.gradient(loss.dlogits_RN[0], tensors([&](std::size_t index) { return parameters.leaf(index).grad()[r]; }));
    losses.loss_R[r] = loss.loss_R[0];
    losses.accuracy_R[r] = loss.accuracy_R[0];
  }
  parameters.zero_frozen_gradients();
  return losses;
}

}  // namespace mnemo
