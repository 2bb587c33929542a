#pragma once

#include "core/config.h"
#include "models/model.h"
#include "models/ops/one_layer_step.h"

#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

namespace mnemo {

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
    visit("attention", self.attention, "how attention is computed, with equal results: binary = over the 2L distinct tokens (CPU), dense",
          one_of({"auto", "dense", "binary"}));
    visit("attention_init", self.attention_init, "initial c_attn weights: normal, or zero", one_of({"normal", "zero"}));
    visit("init_std", self.init_std, "standard deviation of the initial weights", non_negative(), at_most(1e10));
    visit("seed", self.seed, "seed of the initial weights; null = the run's seed");
  }

  std::int64_t width() const { return heads * head_dim; }  ///< C
  std::int64_t resolved_mlp_width() const;                 ///< D

  double nanoseconds_of_prediction(std::int64_t length, std::int64_t num_sequences) const;
  /// What no single field shows: (field, what is wrong). Allocates nothing.
  std::vector<std::pair<std::string, std::string>> problems(std::int64_t length) const;
};

ModelFacts facts_of(const OneLayerAttentionConfig& config, std::int64_t length);

/// MATHS 2. logits() is the plain LibTorch composition; everything after attention runs over the distinct cells alone. On the CPU
/// gradient() and predict() take the exact fast form of models/ops/one_layer_step, unless its guard sends a step back to the plain one.
class OneLayerAttention : public Model {
 public:
  /// Throws Error{config} where `attention: binary` is asked of a device or processor that has no such form.
  OneLayerAttention(const OneLayerAttentionConfig& config, ModelFacts facts, Parameters parameters);

  std::unique_ptr<Model> replica(std::int64_t r) const override;

  torch::Tensor logits(const Rows& rows) override;
  torch::Tensor predict(const Rows& rows) override;
  Losses gradient(const Rows& rows) override;
  std::string form() const override;
  std::int64_t activation_width(std::int64_t length) const override;

  /// Whether the fast form leaves out hidden units that are 0: the same numbers either way, for measurements.
  void set_skip_dead_units(bool skip);

  /// The output of ln_f [R, N, C], then of each MLP layer [R, N, D].
  std::vector<torch::Tensor> hidden_layers(const Rows& rows) const override;
  torch::Tensor attention_maps(const torch::Tensor& bits_RUL) const override;

 protected:
  /// Output of causal attention for every row and position but the last, [R, U, L-1, C].
  virtual torch::Tensor attention(const torch::Tensor& bits_RUL) const;

 private:
  template <class Real>
  OneLayerStep<Real>& step(std::int64_t length);
  /// Nothing where the guard refuses.
  template <class Real>
  std::optional<Losses> binary_gradient(const Rows& rows);
  template <class Real>
  std::optional<torch::Tensor> binary_logits(const Rows& rows);

  OneLayerAttentionConfig config_;
  bool binary_, skip_dead_units_ = true;
  std::variant<std::monostate, OneLayerStep<float>, OneLayerStep<double>> step_;  // made at first use
};

}  // namespace mnemo
