#include "experiments/run/weights.h"

#include "experiments/directory/tensors.h"

#include <torch/torch.h>

namespace mnemo {

namespace {

constexpr const char* kMemory = "memory";

}  // namespace

void write_weights(const fs::path& path, Model& model, const std::map<std::string, std::string>& metadata) {
  NamedTensors tensors;
  for (std::size_t i = 0; i < model.parameters.specs().size(); ++i) {
    tensors.emplace_back(model.parameters.specs()[i].name, model.parameters.leaf(i).select(0, 0));
  }
  if (auto* memory = model.memory()) tensors.emplace_back(kMemory, memory->bits(0));
  write_tensors(path, tensors, metadata);
}

void load_weights(Model& model, const Safetensors& file, const std::vector<std::string>& params) {
  const auto& parameters = model.parameters;
  for (const auto i : matching_parameters(parameters.specs(), params)) {
    copy_from(file, parameters.specs()[i].name, parameters.leaf(i).detach().select(0, 0));
  }
}

void load_memory(Model& model, const Safetensors& file) {
  auto* memory = model.memory();
  if (memory == nullptr) return;
  const auto& stored = file.at(kMemory);
  const auto bits = torch::empty({stored.shape.empty() ? 0 : stored.shape[0], memory->bits(0).size(1)}, torch::kUInt8);
  copy_from(file, kMemory, bits);
  memory->set_bits(0, bits);
}

}  // namespace mnemo
