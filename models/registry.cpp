#include "models/registry.h"

#include <fmt/format.h>

#include <stdexcept>

namespace mnemo {

std::string_view kind_of(const ModelConfig& config) {
  return std::visit([](const auto& c) { return c.kKind; }, config);
}

std::vector<ParameterSpec> parameter_specs(const ModelConfig& config, std::int64_t length) {
  return std::visit([&](const auto& c) { return parameter_specs(c, length); }, config);
}

std::int64_t first_position(const ModelConfig& config) {
  return std::visit([](const auto& c) { return c.first_position(); }, config);
}

bool retrieves(const ModelConfig& config) {
  const auto* dam = std::get_if<DamConfig>(&config);
  return dam != nullptr && dam->retrieves();
}

bool has_memory(const ModelConfig& config) {
  return std::visit([](const auto& c) { return c.has_memory(); }, config);
}

std::string text_of(const ModelConfig& config, std::int64_t length) {
  return fmt::format("{}: {}, {} parameters", kind_of(config), std::visit([](const auto& c) { return c.text(); }, config),
                     num_parameters(config, length));
}

std::int64_t num_parameters(const ModelConfig& config, std::int64_t length) {
  std::int64_t total = 0;
  for (const auto& spec : parameter_specs(config, length)) total += spec.size();
  return total;
}

double nanoseconds_of_prediction(const ModelConfig& config, std::int64_t length, std::int64_t num_sequences) {
  return std::visit([&](const auto& c) { return c.nanoseconds_of_prediction(length, num_sequences); }, config);
}

std::optional<std::uint32_t>& seed_of(ModelConfig& config) {
  return std::visit([](auto& c) -> std::optional<std::uint32_t>& { return c.seed; }, config);
}

std::vector<torch::Tensor> hidden_layers(const Model& model, const Rows& rows) {
  if (const auto* transformer = dynamic_cast<const OneLayerAttention*>(&model)) return transformer->hidden_layers(rows);
  throw std::invalid_argument("[hidden_layers] this model has none");
}

std::int64_t hidden_width(const ModelConfig& config) {
  const auto* transformer = std::get_if<OneLayerAttentionConfig>(&config);
  return transformer ? transformer->width() + transformer->mlp_layers * transformer->resolved_mlp_width() : 0;
}

namespace {

std::unique_ptr<Model> construct(const std::vector<OneLayerAttentionConfig>& replicas, Parameters parameters) {
  return std::make_unique<OneLayerAttention>(replicas[0], std::move(parameters));
}
std::unique_ptr<Model> construct(std::vector<DamConfig> replicas, Parameters parameters) {
  return std::make_unique<Dam>(std::move(replicas), std::move(parameters));
}
std::unique_ptr<Model> construct(const std::vector<PrefixReadoutConfig>& replicas, Parameters parameters) {
  return std::make_unique<PrefixReadout>(replicas[0], std::move(parameters));
}

bool same_shape(const std::vector<ParameterSpec>& a, const std::vector<ParameterSpec>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [](const auto& x, const auto& y) { return x.name == y.name && x.shape == y.shape; });
}

}  // namespace

std::unique_ptr<Model> make_model(std::span<const ModelConfig> replicas, std::int64_t length, torch::Dtype dtype,
                                  torch::Device device) {
  const auto specs = parameter_specs(replicas[0], length);
  Parameters parameters(specs, static_cast<std::int64_t>(replicas.size()), dtype, device);
  for (std::size_t r = 0; r < replicas.size(); ++r) {
    auto config = replicas[r];
    const auto own_specs = parameter_specs(config, length);
    if (!same_shape(specs, own_specs)) throw std::invalid_argument("[make_model] replicas must share their shapes");
    parameters.initialize(static_cast<std::int64_t>(r), seed_of(config).value_or(0), own_specs);
  }
  return std::visit([&]<class Config>(const Config&) {
    std::vector<Config> configs;
    for (const auto& replica : replicas) configs.push_back(std::get<Config>(replica));
    return construct(std::move(configs), std::move(parameters));
  }, replicas[0]);
}

std::int64_t attention_heads(const ModelConfig& config) {
  const auto heads = []<class Config>(const Config& model) -> std::int64_t {
    if constexpr (requires(Parameters& p, torch::Tensor& bits) { attention_maps(model, p, bits); }) return model.heads;
    else return 0;
  };
  return std::visit(heads, config);
}

torch::Tensor attention_maps_of(const ModelConfig& config, const Parameters& parameters, const torch::Tensor& bits_UL) {
  const auto replicas = parameters.flat_RP().size(0);
  const auto maps = [&]<class Config>(const Config& model) -> torch::Tensor {
    if constexpr (requires { attention_maps(model, parameters, bits_UL); }) {
      return attention_maps(model, parameters, bits_UL.expand({replicas, -1, -1}))[0];
    } else {
      throw std::logic_error("[attention] this model has none");
    }
  };
  return std::visit(maps, config);
}

}  // namespace mnemo
