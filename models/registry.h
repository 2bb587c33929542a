#pragma once

#include "models/dam.h"
#include "models/one_layer_attention.h"
#include "models/prefix_readout.h"

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <variant>

namespace mnemo {

/// The only list of models. A new one needs: a config struct with `kKind` and `fields`, facts_of(), a Model, a line in make_model().
using ModelConfig = std::variant<OneLayerAttentionConfig, DamConfig, PrefixReadoutConfig>;

ModelFacts facts_of(const ModelConfig& config, std::int64_t length);
/// Nanoseconds that one prediction of a training step takes one core, about: what the number of threads follows.
double nanoseconds_of_prediction(const ModelConfig& config, std::int64_t length, std::int64_t num_sequences);
/// The seed of the initial weights; null = the run's.
std::optional<std::uint32_t>& seed_of(ModelConfig& config);

/// Settings that replicas of one model may have of their own; all others decide shapes or arithmetic.
inline constexpr std::string_view kOwnOfReplica[] = {"seed", "init_std", "eta"};
/// The first other setting in which two models differ: "heads: 2, 4"; empty where there is none, so that they may be replicas of one model.
std::string difference_of_replicas(const ModelConfig& a, const ModelConfig& b);

/// R replicas of one shape, each with the initial weights of its own seed and init_std. Throws std::invalid_argument for others, naming the setting.
std::unique_ptr<Model> make_model(std::span<const ModelConfig> replicas, std::int64_t length, torch::Dtype dtype, torch::Device device);

}  // namespace mnemo
