#pragma once

#include "core/safetensors.h"

#include <torch/types.h>

#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

namespace mnemo {

// Tensors of a model as safetensors hold them.

using NamedTensors = std::vector<std::pair<std::string, torch::Tensor>>;

/// Writes tensors of any device, atomically.
void write_tensors(const fs::path& path, const NamedTensors& tensors, const std::map<std::string, std::string>& metadata);

/// Copies a tensor of a file into `target`, of any device. Throws Error{data} unless type and shape agree.
void copy_from(const Safetensors& file, const std::string& name, const torch::Tensor& target);

torch::Tensor int64_tensor(const std::vector<std::int64_t>& values);
/// Throws Error{data} for another type, or another size if one is given.
std::vector<std::int64_t> int64_values(const Safetensors& file, const std::string& name, std::int64_t size = -1);

}  // namespace mnemo
