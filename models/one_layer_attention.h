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

/// Settings of the one-layer attention transformer (MATHS 2).
struct OneLayerAttentionConfig {
  static constexpr std::string_view kKind = "one_layer_attention";

  std::int64_t heads = 4, head_dim = 16;
  std::int64_t mlp_layers = 3, mlp_width = 0;
  double mlp_ratio = 0;
  std::string attention = "auto", attention_init = "normal";
  double init_std = 0.02;
  std::optional<std::uint32_t> seed;

  template <class Self, class Visit>
  static void fields(Self& self, Visit&& visit) {
    visit("heads", self.heads, "attention heads H", in_range(1, 4096));
    visit("head_dim", self.head_dim, "width F of a head; the model's width is C = H F", in_range(1, 65536));
    visit("mlp_layers", self.mlp_layers, "MLP layers after attention", in_range(1, 8));
    visit("mlp_width", self.mlp_width, "width D of the MLP; 0 = C", in_range(0, 1 << 20));
    visit("mlp_ratio", self.mlp_ratio, "instead of mlp_width: D = round(mlp_ratio C); 0 = not used", in_range(0, 64));
    visit("attention", self.attention, "how attention is computed, with equal results: binary = over the 2L distinct tokens, dense",
          one_of({"auto", "dense", "binary"}));
    visit("attention_init", self.attention_init, "initial c_attn weights: normal, or zero", one_of({"normal", "zero"}));
    visit("init_std", self.init_std, "standard deviation of the initial weights", non_negative(), at_most(1e10));
    visit("seed", self.seed, "seed of the initial weights; null = the run's seed");
  }

  std::int64_t width() const { return heads * head_dim; }  ///< C
  std::int64_t resolved_mlp_width() const;                 ///< D

  double nanoseconds_of_prediction(std::int64_t length, std::int64_t num_sequences) const;
  /// What is wrong across fields, as (field, what).
  std::vector<std::pair<std::string, std::string>> problems(std::int64_t length) const;
};

ModelFacts facts_of(const OneLayerAttentionConfig& config, std::int64_t length);

/// See models/make_model.h. Throws Error{config} where `attention: binary` is asked of a device or processor that has no such form.
std::unique_ptr<Model> construct(const std::vector<OneLayerAttentionConfig>& replicas, ModelFacts facts, Parameters parameters);

}  // namespace mnemo
