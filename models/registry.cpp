#include "models/registry.h"

#include <fmt/format.h>

#include <algorithm>
#include <stdexcept>

namespace mnemo {

ModelFacts facts_of(const ModelConfig& config, std::int64_t length) {
  return std::visit([&]<class Config>(const Config& c) {
    auto facts = facts_of(c, length);
    facts.kind = Config::kKind;
    return facts;
  }, config);
}

double nanoseconds_of_prediction(const ModelConfig& config, std::int64_t length, std::int64_t num_sequences) {
  return std::visit([&](const auto& c) { return c.nanoseconds_of_prediction(length, num_sequences); }, config);
}

std::optional<std::uint32_t>& seed_of(ModelConfig& config) {
  return std::visit([](auto& c) -> std::optional<std::uint32_t>& { return c.seed; }, config);
}

std::string difference_of_replicas(const ModelConfig& a, const ModelConfig& b) {
  const auto first = flatten(a), second = flatten(b);
  for (std::size_t i = 0; i < std::max(first.size(), second.size()); ++i) {
    const auto at = [&](const auto& list) { return i < list.size() ? list[i] : std::pair<std::string, std::string>("settings", "none"); };
    const auto [name, value] = at(first);
    const auto [other_name, other_value] = at(second);
    const bool may_differ = std::find(std::begin(kOwnOfReplica), std::end(kOwnOfReplica), name) != std::end(kOwnOfReplica);
    if (name == other_name && (value == other_value || may_differ)) continue;
    return fmt::format("{}: {}, {}", name, value, other_value);
  }
  return {};
}

namespace {

std::unique_ptr<Model> construct(const std::vector<OneLayerAttentionConfig>& replicas, ModelFacts facts, Parameters parameters) {
  return std::make_unique<OneLayerAttention>(replicas[0], std::move(facts), std::move(parameters));
}
std::unique_ptr<Model> construct(std::vector<DamConfig> replicas, ModelFacts facts, Parameters parameters) {
  return std::make_unique<Dam>(std::move(replicas), std::move(facts), std::move(parameters));
}
std::unique_ptr<Model> construct(const std::vector<PrefixReadoutConfig>& replicas, ModelFacts facts, Parameters parameters) {
  return std::make_unique<PrefixReadout>(replicas[0], std::move(facts), std::move(parameters));
}

}  // namespace

std::unique_ptr<Model> make_model(std::span<const ModelConfig> replicas, std::int64_t length, torch::Dtype dtype, torch::Device device) {
  auto facts = facts_of(replicas[0], length);
  Parameters parameters(facts.parameters, static_cast<std::int64_t>(replicas.size()), dtype, device);
  for (std::size_t r = 0; r < replicas.size(); ++r) {
    auto config = replicas[r];
    if (const auto difference = difference_of_replicas(replicas[0], config); !difference.empty()) {
      throw std::invalid_argument(fmt::format("[make_model] replica {} is of another model than replica 0: model.{}", r, difference));
    }
    parameters.initialize(static_cast<std::int64_t>(r), seed_of(config).value_or(0), facts_of(config, length).parameters);
  }
  return std::visit([&]<class Config>(const Config&) {
    std::vector<Config> configs;
    for (const auto& replica : replicas) configs.push_back(std::get<Config>(replica));
    return construct(std::move(configs), std::move(facts), std::move(parameters));
  }, replicas[0]);
}

}  // namespace mnemo
