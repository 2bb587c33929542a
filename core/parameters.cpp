#include "core/parameters.h"

#include "core/philox.h"

#include <fmt/format.h>

#include <stdexcept>

namespace mnemo {

namespace {

/// Where each tensor begins in a row of the flat buffer, 64 bytes aligned, and the length of a row.
std::vector<std::int64_t> aligned_offsets(const std::vector<ParameterSpec>& specs, torch::Dtype dtype) {
  const auto alignment = static_cast<std::int64_t>(64 / torch::elementSize(dtype));
  std::vector<std::int64_t> offsets{0};
  for (const auto& spec : specs) offsets.push_back(offsets.back() + (spec.size() + alignment - 1) / alignment * alignment);
  return offsets;
}

}  // namespace

Parameters::Parameters(std::vector<ParameterSpec> specs, std::int64_t num_replicas, torch::Dtype dtype, torch::Device device) {
  auto offsets = aligned_offsets(specs, dtype);
  const auto flat = torch::zeros({num_replicas, offsets.back()}, torch::TensorOptions().dtype(dtype).device(device));
  *this = Parameters(std::move(specs), std::move(offsets), flat, torch::zeros_like(flat));
}

Parameters::Parameters(std::vector<ParameterSpec> specs, std::vector<std::int64_t> offsets, torch::Tensor flat, torch::Tensor gradient)
    : specs_(std::move(specs)), offsets_(std::move(offsets)), flat_(std::move(flat)), gradient_(std::move(gradient)) {
  for (std::size_t i = 0; i < specs_.size(); ++i) {
    std::vector<std::int64_t> shape{num_replicas()};
    shape.insert(shape.end(), specs_[i].shape.begin(), specs_[i].shape.end());
    const auto view = [&](const torch::Tensor& buffer) { return buffer.slice(1, offsets_[i], offsets_[i] + specs_[i].size()).view(shape); };
    leaves_.push_back(view(flat_).detach().requires_grad_());
    leaves_.back().mutable_grad() = view(gradient_);
  }
  frozen_RT_.assign(static_cast<std::size_t>(num_replicas()) * specs_.size(), 0);
}

Parameters Parameters::replica(std::int64_t r) const { return {specs_, offsets_, flat_.slice(0, r, r + 1), gradient_.slice(0, r, r + 1)}; }

std::size_t Parameters::index_of(std::string_view name) const {
  for (std::size_t i = 0; i < specs_.size(); ++i) {
    if (specs_[i].name == name) return i;
  }
  throw std::out_of_range(fmt::format("no parameter is named '{}'", name));
}

void Parameters::initialize(std::int64_t replica, std::uint32_t seed, const std::vector<ParameterSpec>& specs) {
  torch::NoGradGuard no_grad;
  for (std::size_t i = 0; i < specs.size(); ++i) {
    auto target = leaves_[i].select(0, replica);
    switch (specs[i].init) {
      case ParameterSpec::Init::zeros: target.zero_(); break;
      case ParameterSpec::Init::ones: target.fill_(1); break;
      case ParameterSpec::Init::normal: {
        auto values = torch::empty(specs[i].shape, torch::kFloat64);
        fill_normal({values.data_ptr<double>(), static_cast<std::size_t>(values.numel())}, specs[i].init_std, seed, specs[i].name);
        target.copy_(values);
      }
    }
  }
}

void Parameters::set_frozen(std::int64_t replica, std::size_t index, bool frozen) {
  frozen_RT_[flag(replica, index)] = frozen;
  bool in_all = true;
  for (std::int64_t r = 0; r < num_replicas(); ++r) in_all = in_all && this->frozen(r, index);
  auto& leaf = leaves_[index];
  leaf.set_requires_grad(!in_all || !leaf.is_cpu());  // a step that a GPU recorded has to be right after an unfreeze
  torch::NoGradGuard no_grad;
  leaf.mutable_grad().select(0, replica).zero_();
}

void Parameters::zero_frozen_gradients() {
  torch::NoGradGuard no_grad;
  for (std::size_t i = 0; i < frozen_RT_.size(); ++i) {
    if (frozen_RT_[i]) leaves_[i % specs_.size()].mutable_grad().select(0, static_cast<std::int64_t>(i / specs_.size())).zero_();
  }
}

}  // namespace mnemo
