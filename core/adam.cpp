#include "core/adam.h"

#include "core/gpu.h"

#include <ATen/Parallel.h>
#include <c10/core/DeviceGuard.h>
#include <torch/torch.h>

#include <algorithm>
#include <cstring>

namespace mnemo {

namespace {

template <class T>
torch::Tensor bytes_of(const std::vector<T>& values) {
  auto bytes = torch::empty({static_cast<std::int64_t>(values.size() * sizeof(T))}, torch::kUInt8);
  std::memcpy(bytes.data_ptr(), values.data(), values.size() * sizeof(T));
  return bytes;
}

template <class Real>
[[gnu::always_inline]] inline void update_elements(Real* __restrict p, const Real* __restrict g, Real* __restrict m, Real* __restrict v,
                                                   std::int64_t size, const AdamCoefficients<Real>& coefficients) {
  if (coefficients.is_plain()) {
    for (std::int64_t i = 0; i < size; ++i) adam_update<true>(p[i], g[i], m[i], v[i], coefficients);
  } else {
    for (std::int64_t i = 0; i < size; ++i) adam_update(p[i], g[i], m[i], v[i], coefficients);
  }
}

// With vectors as wide as the processor has; nothing is fused, so that they leave the same bits.
[[gnu::target_clones("avx2", "default")]] void update(float* p, const float* g, float* m, float* v, std::int64_t size,
                                                      const AdamCoefficients<float>& coefficients) {
  update_elements(p, g, m, v, size, coefficients);
}
[[gnu::target_clones("avx2", "default")]] void update(double* p, const double* g, double* m, double* v, std::int64_t size,
                                                      const AdamCoefficients<double>& coefficients) {
  update_elements(p, g, m, v, size, coefficients);
}

}  // namespace

/// Elementwise, so the split over threads changes nothing.
template <class Real>
void adam_step_cpu(const AdamBuffers<Real>& b) {
  constexpr std::int64_t kGrain = 1 << 15;
  for (std::int64_t replica = 0; replica < b.num_replicas; ++replica) {
    if (!b.updates[replica]) continue;
    for (std::int64_t tensor = 0; tensor < b.num_tensors; ++tensor) {
      const auto row_tensor = replica * b.num_tensors + tensor;
      if (b.frozen[row_tensor]) continue;
      const auto& scalars = b.scalars[replica];
      const auto t = static_cast<double>(b.steps[row_tensor]);
      const AdamCoefficients<Real> coefficients(scalars, b.rates[replica], 1 - std::pow(scalars.beta1, t), 1 - std::pow(scalars.beta2, t));
      const auto begin = replica * b.row_size + b.offset[tensor];
      at::parallel_for(0, b.size[tensor], kGrain, [&, coefficients](std::int64_t from, std::int64_t to) {
        const auto i = begin + from;
        update(b.parameters + i, b.gradient + i, b.first_moment + i, b.second_moment + i, to - from, coefficients);
      });
    }
  }
}
template void adam_step_cpu<float>(const AdamBuffers<float>&);
template void adam_step_cpu<double>(const AdamBuffers<double>&);

Adam::Adam(Parameters& parameters, const std::vector<AdamScalars>& scalars) : parameters_(parameters) {
  const auto& flat = parameters.flat_RP();
  first_moment_ = torch::zeros_like(flat);
  second_moment_ = torch::zeros_like(flat);
  std::vector<std::int64_t> offsets, sizes;
  for (std::size_t i = 0; i < parameters.specs().size(); ++i) {
    offsets.push_back(parameters.offset(i));
    sizes.push_back(parameters.specs()[i].size());
  }
  offset_T_ = torch::tensor(offsets, torch::kInt64).to(flat.device());
  size_T_ = torch::tensor(sizes, torch::kInt64).to(flat.device());
  steps_ = torch::zeros({flat.size(0), static_cast<std::int64_t>(offsets.size())}, offset_T_.options());
  frozen_RT_ = torch::zeros(steps_.sizes(), offset_T_.options().dtype(torch::kUInt8));
  frozen_.resize(static_cast<std::size_t>(frozen_RT_.numel()));
  std::vector<AdamRates> rates;
  for (const auto& s : scalars) rates.push_back({s.lr, 1});
  scalars_R_ = bytes_of(scalars).to(flat.device());
  rates_R_ = bytes_of(rates).to(flat.device());
  clips_ = std::ranges::any_of(scalars, [](const auto& s) { return s.clip_norm > 0; });
}

void Adam::refresh_frozen() {
  if (parameters_.frozen_RT() == frozen_) return;
  frozen_ = parameters_.frozen_RT();
  frozen_RT_.copy_(torch::tensor(torch::ArrayRef<std::uint8_t>(frozen_), torch::kUInt8).view(frozen_RT_.sizes()));
}

template <class Real>
AdamBuffers<Real> Adam::buffers() {
  refresh_frozen();
  const auto& flat = parameters_.flat_RP();
  return {flat.data_ptr<Real>(),
          parameters_.gradient_RP().data_ptr<Real>(),
          first_moment_.data_ptr<Real>(),
          second_moment_.data_ptr<Real>(),
          offset_T_.data_ptr<std::int64_t>(),
          size_T_.data_ptr<std::int64_t>(),
          steps_.data_ptr<std::int64_t>(),
          frozen_RT_.data_ptr<std::uint8_t>(),
          static_cast<const AdamScalars*>(scalars_R_.data_ptr()),
          static_cast<AdamRates*>(rates_R_.data_ptr()),
          nullptr,
          flat.size(0),
          flat.size(1),
          static_cast<std::int64_t>(parameters_.specs().size()),
          clips_};
}
template AdamBuffers<float> Adam::buffers();
template AdamBuffers<double> Adam::buffers();

void Adam::step(const torch::Tensor& updates_R) {
  torch::NoGradGuard no_grad;
  parameters_.flat_RP().scalar_type() == torch::kFloat64 ? step_typed<double>(updates_R) : step_typed<float>(updates_R);
}

template <class Real>
void Adam::step_typed(const torch::Tensor& updates_R) {
  const auto device = parameters_.flat_RP().device();
  auto buffers = this->buffers<Real>();
  buffers.updates = updates_R.data_ptr<std::uint8_t>();
  steps_.add_((1 - frozen_RT_.to(torch::kInt64)) * updates_R.unsqueeze(1));
  if (device.is_cpu()) return adam_step_cpu(buffers);
  const c10::DeviceGuard guard(device);  // a launch goes to the current device
  adam_step_cuda(buffers, gpu_stream(device.index()));
}

void Adam::reset(std::int64_t replica, const std::vector<std::size_t>& parameters) {
  torch::NoGradGuard no_grad;
  for (const auto index : parameters) {
    const auto begin = parameters_.offset(index), end = begin + parameters_.specs()[index].size();
    first_moment_[replica].slice(0, begin, end).zero_();
    second_moment_[replica].slice(0, begin, end).zero_();
    steps_[replica][static_cast<std::int64_t>(index)].zero_();
  }
}

}  // namespace mnemo
