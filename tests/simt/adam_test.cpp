// Adam's kernel against its arithmetic in a plain loop: equal bits.

#include "core/adam_kernels.h"
#include "simt_test.h"

#include <cstdint>

namespace mnemo {
namespace {

using simt::Device;

struct Case {
  std::vector<std::int64_t> size_T;
  std::vector<std::uint8_t> frozen_RT, updates_R;
};

template <class Real>
void expect_equal_bits(const Case& c) {
  const auto replicas = c.updates_R.size(), tensors = c.size_T.size();
  std::vector<std::int64_t> offset_T;
  std::int64_t row_size = 0;
  for (const auto size : c.size_T) {
    offset_T.push_back(row_size);
    row_size += size + 3;  // tensors need not touch
  }
  const auto n = replicas * static_cast<std::size_t>(row_size);
  simt::Random random;
  const auto p = random.normals<Real>(n, 1), g = random.normals<Real>(n, 1), m = random.normals<Real>(n, 1), v = random.normals<Real>(n, 1);
  auto square = v;
  for (auto& x : square) x *= x;
  std::vector<std::int64_t> steps_RT;
  std::vector<AdamScalars> scalars_R;
  for (std::size_t i = 0; i < replicas * tensors; ++i) steps_RT.push_back(1 + random.below(2000));
  for (std::size_t r = 0; r < replicas; ++r)
    scalars_R.push_back({1e-3 * static_cast<double>(r + 1), .9, .99 + .001 * static_cast<double>(r), 1e-8, r % 2 * .01});

  auto want_p = p, want_m = m, want_v = square;
  for (std::size_t r = 0; r < replicas; ++r) {
    for (std::size_t t = 0; t < tensors; ++t) {
      const auto rt = r * tensors + t;
      if (c.frozen_RT[rt] || !c.updates_R[r]) continue;
      const auto steps = static_cast<double>(steps_RT[rt]);
      const AdamCoefficients<Real> coefficients(scalars_R[r], 1 - std::pow(scalars_R[r].beta1, steps), 1 - std::pow(scalars_R[r].beta2, steps));
      const auto begin = r * static_cast<std::size_t>(row_size) + static_cast<std::size_t>(offset_T[t]);
      for (auto i = begin; i < begin + static_cast<std::size_t>(c.size_T[t]); ++i) adam_update(want_p[i], g[i], want_m[i], want_v[i], coefficients);
    }
  }

  const auto got = simt::in_every_order([&] {
    const Device<Real> p_(p), g_(g), m_(m), v_(square);
    const Device<std::int64_t> offset(offset_T), size(c.size_T), steps(steps_RT);
    const Device<std::uint8_t> frozen(c.frozen_RT), updates(c.updates_R);
    const Device<AdamScalars> scalars(scalars_R);
    adam_step_cuda<Real>({p_, g_, m_, v_, offset, size, steps, frozen, scalars, updates, static_cast<std::int64_t>(replicas), row_size,
                          static_cast<std::int64_t>(tensors)},
                         nullptr);
    return std::tuple(p_.host(), m_.host(), v_.host());
  });
  EXPECT_TRUE(simt::same_bits(got, std::tuple(want_p, want_m, want_v)));
}

void expect_equal_bits_of_both(const Case& c) {
  expect_equal_bits<float>(c);
  expect_equal_bits<double>(c);
}

TEST(AdamKernel, OneElement) { expect_equal_bits_of_both({{1}, {0}, {1}}); }
TEST(AdamKernel, MoreElementsThanThreads) { expect_equal_bits_of_both({{1500, 2, 256, 257}, {0, 0, 0, 0}, {1}}); }
TEST(AdamKernel, LeavesFrozenTensorsAndSkippedReplicasAlone) { expect_equal_bits_of_both({{5, 40, 1}, {0, 1, 0, 0, 0, 0, 1, 1, 0}, {1, 0, 1}}); }

TEST(AdamKernel, IsOneLaunch) {
  const Device<std::uint8_t> one({1}), none({0});
  const AdamBuffers<float> skipped{nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, one, nullptr, none, 1, 1, 1};
  EXPECT_EQ(simt::launched_by([&] { adam_step_cuda(skipped, nullptr); }), std::vector<std::string>{"adam_kernel<float>"});
}

}  // namespace
}  // namespace mnemo
