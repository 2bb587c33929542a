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

/// Settings of the dense associative memory (MATHS 4).
struct DamConfig {
  static constexpr std::string_view kKind = "dam";

  std::int64_t heads = 30;
  std::optional<std::int64_t> capacity;
  double eta = 10, init_std = 0.1;
  std::optional<std::string> probabilities;
  std::string positions = "from_1", objective = "next_bit";
  std::optional<std::uint32_t> seed;

  template <class Self, class Visit>
  static void fields(Self& self, Visit&& visit) {
    visit("heads", self.heads, "heads H: features of a cue and of a stored sequence", in_range(1, 4096));
    visit("capacity", self.capacity, "slots M of the queue of drawn sequences; null = 3000", in_range(1, 1 << 30));
    visit("eta", self.eta, "inverse temperature of retrieval", positive(), at_most(1e6));
    visit("init_std", self.init_std, "standard deviation of the initial A_logits and B_logits", non_negative(), at_most(1e10));
    visit("probabilities", self.probabilities, "exact: a loss is at most 100; clamped: P in [1e-6, 1 - 1e-6]; null = exact",
          one_of({"exact", "clamped"}));
    visit("positions", self.positions, "the first predicted bit: from_1, as a transformer without begin token, or from_0",
          one_of({"from_1", "from_0"}));
    visit("objective", self.objective, "next_bit, or retrieval: which of the K sequences is it? (they are the memory, once each; no queue)",
          one_of({"next_bit", "retrieval"}));
    visit("seed", self.seed, "seed of the initial weights; null = the run's seed");
  }

  bool retrieves() const { return objective == "retrieval"; }
  std::int64_t slots() const { return capacity.value_or(3000); }
  bool clamped() const { return probabilities == "clamped"; }
  /// Replaces null by its default, where the setting has an effect.
  void resolve();
  double nanoseconds_of_prediction(std::int64_t length, std::int64_t num_sequences) const;
  std::vector<std::pair<std::string, std::string>> problems(std::int64_t length) const;
};

ModelFacts facts_of(const DamConfig& config, std::int64_t length);

/// See models/make_model.h.
std::unique_ptr<Model> construct(std::vector<DamConfig> replicas, ModelFacts facts, Parameters parameters);

}  // namespace mnemo
