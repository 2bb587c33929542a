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

/// Settings of the deep transformer (MATHS 3).
struct GptConfig {
  static constexpr std::string_view kKind = "gpt";

  std::int64_t layers = 4, heads = 4, head_dim = 16;
  std::string position = "learned";
  double init_std = 0.02;
  std::optional<std::uint32_t> seed;

  template <class Self, class Visit>
  static void fields(Self& self, Visit&& visit) {
    visit("layers", self.layers, "blocks of attention and an MLP of width 4C", in_range(1, 1024));
    visit("heads", self.heads, "attention heads H of a block", in_range(1, 4096));
    visit("head_dim", self.head_dim, "width F of a head; the model's width is C = H F", in_range(1, 65536));
    visit("position", self.position, "how positions are told apart: learned = an embedding, rope = queries and keys are rotated (F even)",
          one_of({"learned", "rope"}));
    visit("init_std", self.init_std, "standard deviation of the initial weights; of each c_proj over sqrt(2 layers)", non_negative(), at_most(1e10));
    visit("seed", self.seed, "seed of the initial weights; null = the run's seed");
  }

  std::int64_t width() const { return heads * head_dim; }  ///< C
  bool learns_positions() const { return position == "learned"; }

  double nanoseconds_of_prediction(std::int64_t length, std::int64_t num_sequences) const;
  /// What is wrong across fields, as (field, what).
  std::vector<std::pair<std::string, std::string>> problems(std::int64_t length) const;
};

ModelFacts facts_of(const GptConfig& config, std::int64_t length);

/// See models/make_model.h.
std::unique_ptr<Model> construct(const std::vector<GptConfig>& replicas, ModelFacts facts, Parameters parameters);

}  // namespace mnemo
