#pragma once

#include "core/config.h"
#include "models/facts.h"

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace mnemo {

class Model;
class Parameters;

/// Settings of the prefix readout (MATHS 5).
struct PrefixReadoutConfig {
  static constexpr std::string_view kKind = "prefix_readout";

  std::int64_t features = 16;
  std::string readout = "shared";
  double init_std = 0.1;
  std::optional<std::uint32_t> seed;

  template <class Self, class Visit>
  static void fields(Self& self, Visit&& visit) {
    visit("features", self.features, "width d of the feature of a prefix", in_range(1, 65536));
    visit("readout", self.readout, "the vector B that reads a feature: shared, or one per_position", one_of({"shared", "per_position"}));
    visit("init_std", self.init_std, "standard deviation of the initial weights", non_negative(), at_most(1e10));
    visit("seed", self.seed, "seed of the initial weights; null = the run's seed");
  }

  double nanoseconds_of_prediction(std::int64_t length, std::int64_t num_sequences) const;
  std::vector<std::pair<std::string, std::string>> problems(std::int64_t length) const;
};

ModelFacts facts_of(const PrefixReadoutConfig& config, std::int64_t length);

/// See models/make_model.h.
std::unique_ptr<Model> construct(const std::vector<PrefixReadoutConfig>& replicas, ModelFacts facts, Parameters parameters);

}  // namespace mnemo
