#pragma once

#include "models/dam.h"
#include "models/gpt.h"
#include "models/one_layer_attention.h"
#include "models/prefix_readout.h"

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <variant>

namespace mnemo {

/// The only list of models; a new one adds a line here. Its own pair of files has: a config struct with `kKind`, `fields`, `seed`, problems() and
/// nanoseconds_of_prediction(); facts_of(); construct(). Their headers know no LibTorch, and so a configuration does not.
using ModelConfig = std::variant<OneLayerAttentionConfig, GptConfig, DamConfig, PrefixReadoutConfig>;

ModelFacts facts_of(const ModelConfig& config, std::int64_t length);
/// About how many nanoseconds of one core a prediction of a training step takes: decides the number of threads.
double nanoseconds_of_prediction(const ModelConfig& config, std::int64_t length, std::int64_t num_sequences);
/// The seed of the initial weights; null = the run's.
std::optional<std::uint32_t>& seed_of(ModelConfig& config);

/// Whether replicas of one model may differ in a setting; all others decide shapes or arithmetic.
bool is_own_of_replica(std::string_view setting);
/// The first setting that keeps two models from being replicas of one: "heads: 2, 4"; empty if there is none.
std::string difference_of_replicas(const ModelConfig& a, const ModelConfig& b);

}  // namespace mnemo
