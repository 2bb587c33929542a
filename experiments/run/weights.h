#pragma once

#include "core/safetensors.h"
#include "models/model.h"

#include <map>
#include <string>
#include <vector>

namespace mnemo {

// Snapshots and final.safetensors: the tensors of a model of one replica under their PyTorch names, and what it has stored as `memory`.

void write_weights(const fs::path& path, Model& model, const std::map<std::string, std::string>& metadata);

/// Loads the weights that `params` name. Throws Error{data} when a tensor is missing or has another shape.
void load_weights(Model& model, const Safetensors& file, const std::vector<std::string>& params = {"*"});

/// Loads what a model with a memory has stored.
void load_memory(Model& model, const Safetensors& file);

}  // namespace mnemo
