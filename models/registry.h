#pragma once

#include "models/dam.h"
#include "models/one_layer_attention.h"
#include "models/prefix_readout.h"

#include <memory>
#include <span>
#include <string>
#include <variant>
#include <vector>

namespace mnemo {

/// The only list of models. A new one needs: a config struct with `kKind` and `fields`, parameter_specs(), a Model, a
/// line in make_model().
using ModelConfig = std::variant<OneLayerAttentionConfig, DamConfig, PrefixReadoutConfig>;

std::string_view kind_of(const ModelConfig& config);
std::vector<ParameterSpec> parameter_specs(const ModelConfig& config, std::int64_t length);
/// The first bit that the model predicts.
std::int64_t first_position(const ModelConfig& config);
/// Whether it names whole sequences instead of bits.
bool retrieves(const ModelConfig& config);
/// Whether it keeps a queue that a switch may clear or not.
bool has_memory(const ModelConfig& config);
/// "dam: 30 heads, eta 10, a queue of 3000, 76,500 parameters".
std::string text_of(const ModelConfig& config, std::int64_t length);
std::int64_t num_parameters(const ModelConfig& config, std::int64_t length);
/// Nanoseconds that one prediction of a training step takes one core, about: what the number of threads follows.
double nanoseconds_of_prediction(const ModelConfig& config, std::int64_t length, std::int64_t num_sequences);
/// The seed of the initial weights; null = the run's.
std::optional<std::uint32_t>& seed_of(ModelConfig& config);

/// The hidden layers of a model's plain form for every cell, [R, N, width] each, the input of the MLP first. Throws std::invalid_argument for
/// a model that has none.
std::vector<torch::Tensor> hidden_layers(const Model& model, const Rows& rows);
/// Their widths together; 0 = none.
std::int64_t hidden_width(const ModelConfig& config);

/// Heads of the model's attention maps; 0 = it has none.
std::int64_t attention_heads(const ModelConfig& config);
/// Attention maps of replica 0, [U, H, L, L] for bits uint8 [U, L] on the parameters' device. Throws std::logic_error where there are none.
torch::Tensor attention_maps_of(const ModelConfig& config, const Parameters& parameters, const torch::Tensor& bits_UL);

/// R replicas of one shape, each with the initial weights of its own seed and init_std.
std::unique_ptr<Model> make_model(std::span<const ModelConfig> replicas, std::int64_t length, torch::Dtype dtype,
                                  torch::Device device);

}  // namespace mnemo
