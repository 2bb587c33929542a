#pragma once

#include "models/model.h"
#include "models/registry.h"

#include <memory>
#include <span>

namespace mnemo {

/// R replicas of one shape, each with the initial weights of its own seed and init_std. Throws std::invalid_argument naming the setting if they are
/// not of one shape.
std::unique_ptr<Model> make_model(std::span<const ModelConfig> replicas, std::int64_t length, torch::Dtype dtype, torch::Device device);

}  // namespace mnemo
