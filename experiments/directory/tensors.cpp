#include "experiments/directory/tensors.h"

#include "core/error.h"

#include <fmt/format.h>
#include <torch/torch.h>

#include <stdexcept>

namespace mnemo {

namespace {

Dtype dtype_of(const torch::Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case torch::kFloat32: return Dtype::f32;
    case torch::kFloat64: return Dtype::f64;
    case torch::kInt64: return Dtype::i64;
    case torch::kUInt8: return Dtype::u8;
    default: throw std::logic_error("[tensors] no container type for this tensor");
  }
}

}  // namespace

void write_tensors(const fs::path& path, const NamedTensors& tensors, const std::map<std::string, std::string>& metadata) {
  std::vector<torch::Tensor> owners;  // contiguous copies on the host, where needed
  std::vector<std::pair<std::string, ArrayView>> views;
  for (const auto& [name, tensor] : tensors) {
    const auto& held = owners.emplace_back(tensor.detach().cpu().contiguous());
    views.emplace_back(name, ArrayView{dtype_of(held), held.sizes().vec(), static_cast<const std::byte*>(held.data_ptr())});
  }
  write_safetensors(path, views, metadata);
}

void copy_from(const Safetensors& file, const std::string& name, const torch::Tensor& target) {
  torch::NoGradGuard no_grad;
  const auto& source = file.at(name);
  if (source.dtype != dtype_of(target) || source.shape != target.sizes().vec()) {
    refuse(file.path(), fmt::format("tensor '{}' has another type or shape than this model's", name));
  }
  target.copy_(torch::from_blob(const_cast<std::byte*>(source.data), source.shape, target.options().device(torch::kCPU).requires_grad(false)));
}

torch::Tensor int64_tensor(const std::vector<std::int64_t>& values) { return torch::tensor(torch::ArrayRef<std::int64_t>(values), torch::kInt64); }

std::vector<std::int64_t> int64_values(const Safetensors& file, const std::string& name, std::int64_t size) {
  const auto values = file.get<std::int64_t>(name, size);
  return {values.begin(), values.end()};
}

}  // namespace mnemo
