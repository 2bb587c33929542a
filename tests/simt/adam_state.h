#pragma once

#include "core/adam_kernels.h"
#include "simt_test.h"

#include <algorithm>
#include <cstdint>

namespace mnemo {

/// What Adam works on, with random numbers: on the host, and copied to the device.
template <class Real>
struct AdamState {
  std::int64_t row_size = 0;
  std::vector<std::int64_t> offset_T, size_T, steps_RT;
  std::vector<std::uint8_t> frozen_RT, updates_R;
  std::vector<Real> parameters, gradient, first_moment, second_moment;
  std::vector<AdamScalars> scalars_R;
  std::vector<AdamRates> rates_R;  // of the update

  AdamState(const std::vector<std::int64_t>& sizes, std::vector<std::uint8_t> frozen, std::vector<std::uint8_t> updates)
      : size_T(sizes), frozen_RT(std::move(frozen)), updates_R(std::move(updates)) {
    for (const auto size : sizes) {
      offset_T.push_back(row_size);
      row_size += size + 3;  // tensors need not touch
    }
    const auto elements = updates_R.size() * static_cast<std::size_t>(row_size);
    simt::Random random;
    for (auto* values : {&parameters, &first_moment, &second_moment}) *values = random.normals<Real>(elements, 1);
    draw_gradient(random);
    for (auto& value : second_moment) value *= value;
    for (std::size_t i = 0; i < frozen_RT.size(); ++i) steps_RT.push_back(1 + random.below(2000));
    for (std::size_t r = 0; r < updates_R.size(); ++r) {
      const auto number = static_cast<double>(r);
      scalars_R.push_back({1e-3 * (number + 1), .9, .99 + .001 * number, 1e-8, r % 2 * .01, r % 4 == 3});
      rates_R.push_back({scalars_R[r].lr * (1 - .1 * number), r % 3 == 1 ? .3 : 1});
    }
  }

  std::size_t element(std::size_t replica, std::size_t tensor, std::int64_t i) const {
    return replica * static_cast<std::size_t>(row_size) + static_cast<std::size_t>(offset_T[tensor] + i);
  }

  /// What lies between tensors is not a number, and no one's.
  void draw_gradient(simt::Random& random) {
    gradient.assign(parameters.size(), simt::kNan);
    for (std::size_t r = 0; r < updates_R.size(); ++r) {
      for (std::size_t t = 0; t < size_T.size(); ++t) {
        for (auto i = element(r, t, 0); i < element(r, t, size_T[t]); ++i) gradient[i] = random.normal(1);
      }
    }
  }

  /// adam_step_cpu() without LibTorch's threads.
  void step() {
    for (std::size_t rt = 0; rt < frozen_RT.size(); ++rt) {
      const auto r = rt / size_T.size(), t = rt % size_T.size();
      if (frozen_RT[rt] || !updates_R[r]) continue;
      const auto& s = scalars_R[r];
      const auto steps = static_cast<double>(steps_RT[rt]);
      const AdamCoefficients<Real> coefficients(s, rates_R[r], 1 - std::pow(s.beta1, steps), 1 - std::pow(s.beta2, steps));
      for (auto i = element(r, t, 0); i < element(r, t, size_T[t]); ++i) {
        adam_update(parameters[i], gradient[i], first_moment[i], second_moment[i], coefficients);
      }
    }
  }
};

template <class Real>
struct DeviceAdam {
  simt::Device<Real> parameters, gradient, first_moment, second_moment;
  simt::Device<std::int64_t> offset, size, steps;
  simt::Device<std::uint8_t> frozen, updates;
  simt::Device<AdamScalars> scalars;
  simt::Device<AdamRates> rates;
  std::int64_t row_size;
  bool clips;

  explicit DeviceAdam(const AdamState<Real>& s)
      : parameters(s.parameters),
        gradient(s.gradient),
        first_moment(s.first_moment),
        second_moment(s.second_moment),
        offset(s.offset_T),
        size(s.size_T),
        steps(s.steps_RT),
        frozen(s.frozen_RT),
        updates(s.updates_R),
        scalars(s.scalars_R),
        rates(s.rates_R),
        row_size(s.row_size),
        clips(std::any_of(s.scalars_R.begin(), s.scalars_R.end(), [](const auto& scalars) { return scalars.clip_norm > 0; })) {}

  AdamBuffers<Real> buffers() const {
    const auto replicas = static_cast<std::int64_t>(updates.size()), tensors = static_cast<std::int64_t>(size.size());
    return {parameters, gradient, first_moment, second_moment, offset,   size,    steps, frozen,
            scalars,    rates,    updates,      replicas,      row_size, tensors, clips};
  }
};

}  // namespace mnemo
