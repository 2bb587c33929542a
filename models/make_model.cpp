#include "models/make_model.h"

#include <fmt/format.h>

#include <stdexcept>

namespace mnemo {

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
  return std::visit(
      [&]<class Config>(const Config&) {
        std::vector<Config> configs;
        for (const auto& replica : replicas) configs.push_back(std::get<Config>(replica));
        return construct(std::move(configs), std::move(facts), std::move(parameters));
      },
      replicas[0]);
}

}  // namespace mnemo
