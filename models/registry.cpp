#include "models/registry.h"

#include <fmt/format.h>

#include <algorithm>

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

}  // namespace mnemo
