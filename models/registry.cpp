#include "models/registry.h"

namespace mnemo {

ModelFacts facts_of(const ModelConfig& config, std::int64_t length) {
  return std::visit(
      [&]<class Config>(const Config& c) {
        auto facts = facts_of(c, length);
        facts.kind = Config::kKind;
        return facts;
      },
      config);
}

double nanoseconds_of_prediction(const ModelConfig& config, std::int64_t length, std::int64_t num_sequences) {
  return std::visit([&](const auto& c) { return c.nanoseconds_of_prediction(length, num_sequences); }, config);
}

std::optional<std::uint32_t>& seed_of(ModelConfig& config) {
  return std::visit([](auto& c) -> std::optional<std::uint32_t>& { return c.seed; }, config);
}

bool is_own_of_replica(std::string_view setting) { return setting == "seed" || setting == "init_std" || setting == "eta"; }

std::string difference_of_replicas(const ModelConfig& a, const ModelConfig& b) { return first_difference(flatten(a), flatten(b), is_own_of_replica); }

}  // namespace mnemo
