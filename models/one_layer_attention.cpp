#include "models/one_layer_attention.h"

#include "core/device_batch.h"
#include "core/error.h"
#include "core/gpu.h"
#include "models/layers.h"
#include "models/model.h"
#include "models/ops/one_layer_cuda.h"
#include "models/ops/one_layer_step.h"

#include <fmt/format.h>
#include <torch/torch.h>

#include <cmath>
#include <variant>

// Shapes: R replicas, U rows, L bits, P = L-1 positions with a prediction, N cells, C = H F width, D MLP width.

namespace mnemo {

using torch::Tensor;

std::int64_t OneLayerAttentionConfig::resolved_mlp_width() const {
  if (mlp_ratio > 0) return std::max<std::int64_t>(1, std::llround(mlp_ratio * static_cast<double>(width())));
  return mlp_width > 0 ? mlp_width : width();
}

/// A part that does not depend on the width, and the products of the MLP (as measured by bench one_layer A, B, C).
double OneLayerAttentionConfig::nanoseconds_of_prediction(std::int64_t, std::int64_t) const {
  const auto C = static_cast<double>(width()), D = static_cast<double>(resolved_mlp_width());
  return 100 + (C * D + static_cast<double>(mlp_layers - 1) * D * D) / 30;
}

std::vector<std::pair<std::string, std::string>> OneLayerAttentionConfig::problems(std::int64_t length) const {
  std::vector<std::pair<std::string, std::string>> found;
  if (mlp_width > 0 && mlp_ratio > 0) found.emplace_back("mlp_ratio", "give mlp_width or mlp_ratio, not both");
  const double C = static_cast<double>(heads) * static_cast<double>(head_dim);
  const double D = mlp_ratio > 0 ? mlp_ratio * C : mlp_width > 0 ? static_cast<double>(mlp_width) : C;
  const double parameters = 3 * C * C + static_cast<double>(length) * C + C * D + static_cast<double>(mlp_layers - 1) * D * D;
  if (const auto what = too_many_parameters(parameters); !what.empty()) {
    found.emplace_back(D <= C ? "head_dim" : mlp_ratio > 0 ? "mlp_ratio" : "mlp_width", what);
  }
  return found;
}

ModelFacts facts_of(const OneLayerAttentionConfig& config, std::int64_t length) {
  using Init = ParameterSpec::Init;
  const auto width = config.width(), mlp_width = config.resolved_mlp_width();
  const auto std = config.init_std;
  const auto attention = config.attention_init == "zero" ? Init::zeros : Init::normal;
  ModelFacts facts;
  facts.text = fmt::format("{} heads x {}, {} MLP layers of {}", config.heads, config.head_dim, config.mlp_layers, mlp_width);
  facts.attention_layers = 1;
  facts.attention_heads = config.heads;
  facts.hidden_widths.assign(static_cast<std::size_t>(config.mlp_layers) + 1, mlp_width);
  facts.hidden_widths[0] = width;
  auto& specs = facts.parameters;
  specs = {
      {"wte.weight", "embeddings", {2, width}, Init::normal, std},
      {"wpe.weight", "embeddings", {length, width}, Init::normal, std},
      {"c_attn.weight", "c_attn", {3 * width, width}, attention, std},
      {"c_attn.bias", "c_attn", {3 * width}, Init::zeros},
      {"ln_f.weight", "ln_f", {width}, Init::ones},
      {"ln_f.bias", "ln_f", {width}, Init::zeros},
  };
  for (std::int64_t j = 0; j < config.mlp_layers; ++j) {
    specs.push_back({fmt::format("linear_modules.{}.weight", j), "mlp", {mlp_width, j == 0 ? width : mlp_width}, Init::normal, std});
    specs.push_back({fmt::format("linear_modules.{}.bias", j), "mlp", {mlp_width}, Init::zeros});
  }
  specs.push_back({"lm_head.weight", "lm_head", {2, mlp_width}, Init::normal, std});
  specs.push_back({"lm_head.bias", "lm_head", {2}, Init::zeros});
  return facts;
}

namespace {

/// MATHS 2. logits() is the plain LibTorch composition; everything after attention runs over the distinct cells alone. gradient() takes the exact
/// fast form: on the CPU that of models/ops/one_layer_step, as predict() does, unless its guard sends a step back to the plain one; on a GPU, for
/// batches that were made there, the kernels of models/ops/one_layer_cuda.
class OneLayerAttention final : public Model {
 public:
  OneLayerAttention(const OneLayerAttentionConfig& config, ModelFacts facts, Parameters parameters);

  std::unique_ptr<Model> replica(std::int64_t r) const override;

  Tensor logits(const CellBatch& batch) override;
  Tensor predict(const CellBatch& batch) override;
  Losses gradient(const CellBatch& batch) override;
  std::string form() const override;
  std::int64_t activation_width(std::int64_t length) const override;

  /// The output of ln_f [R, N, C], then of each MLP layer [R, N, D].
  std::vector<Tensor> hidden_layers(const CellBatch& batch) const override;
  std::vector<Tensor> attention_maps(const Tensor& bits_RUL) const override;

 private:
  /// Output of causal attention for every row and position but the last, [R, U, L-1, C].
  Tensor attention(const Tensor& bits_RUL) const;
  bool fast() const { return binary_ && kernels_on_cpu(); }
  bool has_kernels() const { return binary_ && forms.kernels && !parameters.flat_RP().is_cpu(); }
  Losses gradient_on_gpu(const DeviceBatch& batch);
  template <class Real>
  OneLayerStep<Real>& step(std::int64_t length);
  template <class Real>
  Losses binary_gradient(const CellBatch& batch);
  /// Nothing if the guard refuses.
  template <class Real>
  std::optional<Tensor> binary_logits(const CellBatch& batch);

  OneLayerAttentionConfig config_;
  bool binary_, step_skips_ = true;
  std::variant<std::monostate, OneLayerStep<float>, OneLayerStep<double>> step_;  // made at first use
  Tensor work_;                                                                   // of the kernels on a GPU, also made then
  Losses on_gpu_;
};

Affine affine(const Parameters& parameters, const std::string& name) { return {parameters[name + ".weight"], parameters[name + ".bias"]}; }

/// Queries, keys and values of every position, [3, R, U, H, P, F].
Tensor queries_keys_values(const OneLayerAttentionConfig& config, const Parameters& parameters, const Tensor& bits_RUP) {
  const auto x_RUPC = embedded(bits_RUP, parameters["wte.weight"], parameters["wpe.weight"]);
  return split_heads(linear(x_RUPC.flatten(1, 2), affine(parameters, "c_attn")), bits_RUP.size(1), bits_RUP.size(2), config.heads);
}

}  // namespace

std::vector<Tensor> OneLayerAttention::attention_maps(const Tensor& bits_RUL) const {
  const auto qkv = queries_keys_values(config_, parameters, bits_RUL);
  return {causal_attention(qkv[0], qkv[1])};
}

Tensor OneLayerAttention::attention(const Tensor& bits_RUL) const {
  const auto qkv = queries_keys_values(config_, parameters, bits_RUL.slice(2, 0, bits_RUL.size(2) - 1));
  return join_heads(torch::matmul(causal_attention(qkv[0], qkv[1]), qkv[2]));
}

std::vector<Tensor> OneLayerAttention::hidden_layers(const CellBatch& batch) const {
  const auto R = batch.num_replicas(), C = config_.width();
  const auto positions = batch.num_rows() * (batch.length() - 1);
  // one index over all replicas picks the cells
  const auto& [bits_RUL, cell_RN, weight_RN2] = batch.tensors();
  const auto first = torch::arange(R, cell_RN.options()).unsqueeze(1) * positions;
  const auto o = attention(bits_RUL).view({R * positions, C}).index_select(0, (cell_RN + first).view(-1)).view({R, -1, C});

  std::vector<Tensor> layers{layer_norm(o, affine(parameters, "ln_f"))};
  for (std::int64_t j = 0; j < config_.mlp_layers; ++j) {
    const auto layer = linear(layers.back(), affine(parameters, fmt::format("linear_modules.{}", j))).relu();
    layers.push_back(j == 0 ? layer : layer + layers.back());
  }
  return layers;
}

Tensor OneLayerAttention::logits(const CellBatch& batch) {
  const auto z = linear(hidden_layers(batch).back(), affine(parameters, "lm_head"));  // [R, N, 2]
  return z.select(2, 1) - z.select(2, 0);
}

// ---- the exact fast form on the CPU

namespace {

bool has_binary_form(const Parameters& parameters) {
  const auto& flat = parameters.flat_RP();
  return flat.is_cpu() ? __builtin_cpu_supports("x86-64-v3") != 0 : flat.scalar_type() == torch::kFloat32;  // one_layer_step; one_layer_cuda
}

/// OneLayerTensors or OneLayerOffsets, each entry of it take(first element of the tensor in a row).
template <class Tensors, class Take>
Tensors for_each_tensor(const Parameters& parameters, std::int64_t mlp_layers, const Take& take) {
  Tensors tensors{};
  std::size_t next = 0;  // in the order of the facts
  const auto fill = [&](auto& tensor) { tensor = take(parameters.offset(next++)); };
  for (auto* tensor : {&tensors.wte, &tensors.wpe, &tensors.c_attn_weight, &tensors.c_attn_bias, &tensors.ln_weight, &tensors.ln_bias}) fill(*tensor);
  for (std::size_t j = 0; j < static_cast<std::size_t>(mlp_layers); ++j) {
    fill(tensors.mlp_weight[j]);
    fill(tensors.mlp_bias[j]);
  }
  fill(tensors.head_weight);
  fill(tensors.head_bias);
  return tensors;
}

/// The tensors of one replica, whose row of the flat buffer (weights or gradient) begins at `row`.
template <class Real>
OneLayerTensors<Real> tensors_at(Real* row, const Parameters& parameters, std::int64_t mlp_layers) {
  return for_each_tensor<OneLayerTensors<Real>>(parameters, mlp_layers, [row](std::int64_t offset) { return row + offset; });
}

}  // namespace

std::unique_ptr<Model> construct(const std::vector<OneLayerAttentionConfig>& replicas, ModelFacts facts, Parameters parameters) {
  return std::make_unique<OneLayerAttention>(replicas[0], std::move(facts), std::move(parameters));
}

OneLayerAttention::OneLayerAttention(const OneLayerAttentionConfig& config, ModelFacts f, Parameters p)
    : Model(std::move(f), std::move(p)), config_(config), binary_(config.attention != "dense" && has_binary_form(parameters)) {
  if (config.attention == "binary" && !binary_) {
    throw Error(ExitCode::config, "model.attention: binary needs a GPU, or a CPU with AVX2; auto takes the dense form where it must");
  }
}

std::unique_ptr<Model> OneLayerAttention::replica(std::int64_t r) const {
  auto one = std::make_unique<OneLayerAttention>(config_, facts, parameters.replica(r));
  one->forms = forms;
  return one;
}

std::string OneLayerAttention::form() const {
  return fast() || has_kernels() ? "tables over the 2L distinct tokens (model.attention: binary)" : "dense attention (model.attention: dense)";
}

std::int64_t OneLayerAttention::activation_width(std::int64_t length) const {
  return fast() ? length / 4 + 16 : Model::activation_width(length);  // a byte for 4 bits, and indices: activations stay in cache
}

template <class Real>
OneLayerStep<Real>& OneLayerAttention::step(std::int64_t length) {
  if (!std::holds_alternative<OneLayerStep<Real>>(step_) || step_skips_ != forms.skip_dead_units) {
    step_skips_ = forms.skip_dead_units;
    const OneLayerShape shape{config_.heads, config_.head_dim, config_.resolved_mlp_width(), config_.mlp_layers, length};
    step_.template emplace<OneLayerStep<Real>>(shape, at::get_num_threads(), step_skips_);
  }
  return std::get<OneLayerStep<Real>>(step_);
}

template <class Real>
Losses OneLayerAttention::binary_gradient(const CellBatch& batch) {
  torch::NoGradGuard no_grad;
  parameters.zero_gradient();
  const auto& flat = parameters.flat_RP();
  Losses losses{torch::empty({flat.size(0)}, torch::kFloat64), torch::empty({flat.size(0)}, torch::kFloat64)};
  auto *loss = losses.loss_R.data_ptr<double>(), *accuracy = losses.accuracy_R.data_ptr<double>();
  for (std::int64_t r = 0; r < flat.size(0); ++r) {
    const auto& own = batch.replicas()[static_cast<std::size_t>(r)];
    const auto weights = tensors_at<const Real>(flat.data_ptr<Real>() + r * flat.size(1), parameters, config_.mlp_layers);
    const auto gradient = tensors_at<Real>(parameters.gradient_RP().data_ptr<Real>() + r * flat.size(1), parameters, config_.mlp_layers);
    if (const auto result = step<Real>(batch.length()).gradient(weights, gradient, *own.cells, *own.table)) {
      loss[r] = result->loss;
      accuracy[r] = result->accuracy;
    } else {  // the guard refuses: the plain form takes this replica's step
      torch::AutoGradMode grad(true);
      const auto plain = replica(r)->plain_gradient(CellBatch({own}, flat.scalar_type(), flat.device()));
      loss[r] = plain.loss_R.item<double>();
      accuracy[r] = plain.accuracy_R.item<double>();
    }
  }
  parameters.zero_frozen_gradients();
  return losses;
}

Losses OneLayerAttention::gradient_on_gpu(const DeviceBatch& batch) {
  torch::NoGradGuard no_grad;
  const auto& flat = parameters.flat_RP();
  const auto to_int = [](std::int64_t size) { return static_cast<int>(size); };
  OneLayerCudaStep step{};
  step.shape = {to_int(config_.heads), to_int(config_.head_dim), to_int(config_.resolved_mlp_width()), to_int(config_.mlp_layers)};
  step.cells = batch.cells();
  step.tf32 = forms.tf32;
  step.row_size = static_cast<std::size_t>(flat.size(1));
  step.offsets =
      for_each_tensor<OneLayerOffsets>(parameters, config_.mlp_layers, [](std::int64_t offset) { return static_cast<std::size_t>(offset); });
  if (const auto bytes = static_cast<std::int64_t>(one_layer_cuda_work(step.shape, batch.shape())); !work_.defined() || work_.numel() != bytes) {
    work_ = torch::empty({bytes}, flat.options().dtype(torch::kUInt8).requires_grad(false));
    on_gpu_.loss_R = torch::empty({flat.size(0)}, flat.options().dtype(torch::kFloat64).requires_grad(false));
    on_gpu_.accuracy_R = torch::empty_like(on_gpu_.loss_R);
  }
  step.parameters_RP = flat.data_ptr<float>();
  step.gradient_RP = parameters.gradient_RP().data_ptr<float>();
  step.work = work_.data_ptr();
  step.loss_R = on_gpu_.loss_R.data_ptr<double>();
  step.accuracy_R = on_gpu_.accuracy_R.data_ptr<double>();
  const c10::DeviceGuard guard(flat.device());  // a launch goes to the current device
  one_layer_gradient_cuda(step, gpu_stream(flat.device().index()));
  return on_gpu_;
}

Losses OneLayerAttention::gradient(const CellBatch& batch) {
  if (batch.on_gpu() != nullptr && has_kernels()) return gradient_on_gpu(*batch.on_gpu());
  if (!fast()) return plain_gradient(batch);
  return parameters.flat_RP().scalar_type() == torch::kFloat64 ? binary_gradient<double>(batch) : binary_gradient<float>(batch);
}

template <class Real>
std::optional<Tensor> OneLayerAttention::binary_logits(const CellBatch& batch) {
  const auto& flat = parameters.flat_RP();
  auto logits_RN = torch::zeros({batch.num_replicas(), batch.num_cells()}, flat.options());
  for (std::int64_t r = 0; r < batch.num_replicas(); ++r) {
    const auto& [cells, table] = batch.replicas()[static_cast<std::size_t>(r)];
    const auto weights = tensors_at<const Real>(flat.data_ptr<Real>() + r * flat.size(1), parameters, config_.mlp_layers);
    if (!step<Real>(batch.length()).logits(weights, *cells, *table, logits_RN.data_ptr<Real>() + r * batch.num_cells())) return {};
  }
  return logits_RN;
}

Tensor OneLayerAttention::predict(const CellBatch& batch) {
  if (fast()) {
    const bool is_double = parameters.flat_RP().scalar_type() == torch::kFloat64;
    if (auto logits_RN = is_double ? binary_logits<double>(batch) : binary_logits<float>(batch)) return *logits_RN;
  }
  return Model::predict(batch);
}

}  // namespace mnemo
