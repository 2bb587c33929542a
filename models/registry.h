#pragma once

#include "models/dam.h"
#include "models/one_layer_attention.h"
#include "models/prefix_readout.h"

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <variant>

namespace mnemo {

/// The only list of models, and the only line that a new one adds here. Its own pair of files has: a config struct with `kKind`, `fields`, `seed`,
/// problems() and nanoseconds_of_prediction(); facts_of(); construct(). Their headers know no LibTorch, and so a configuration does not.
using ModelConfig = std::variant<OneLayerAttentionConfig, DamConfig, PrefixReadoutConfig>;

ModelFacts facts_of(const ModelConfig& config, std::int64_t length);
/// Nanoseconds that one prediction of a training step takes one core, about: what the number of threads follows.
double nanoseconds_of_prediction(const ModelConfig& config, std::int64_t length, std::int64_t num_sequences);
/// The seed of the initial weights; null = the run's.
std::optional<std::uint32_t>& seed_of(ModelConfig& config);

/// Settings that replicas of one model may have of their own; all others decide shapes or arithmetic.
bool is_own_of_replica(std::string_view setting);
/// The first other setting in which two models differ: "heads: 2, 4"; empty where there is none, so that they may be replicas of one model.
std::string difference_of_replicas(const ModelConfig& a, const ModelConfig& b);

}  // namespace mnemo
