// Adam's kernel against its arithmetic in a plain loop: equal bits.

#include "adam_state.h"

namespace mnemo {
namespace {

template <class Real>
void expect_equal_bits(const AdamState<Real>& start) {
  const auto got = simt::in_every_order([&] {
    const DeviceAdam<Real> device(start);
    adam_step_cuda(device.buffers(), nullptr);
    return std::tuple(device.parameters.host(), device.first_moment.host(), device.second_moment.host());
  });
  auto want = start;
  want.step();
  EXPECT_TRUE(simt::agree(got, std::tuple(want.parameters, want.first_moment, want.second_moment)));
}

void expect_equal_bits_of_both(const std::vector<std::int64_t>& sizes, const std::vector<std::uint8_t>& frozen,
                               const std::vector<std::uint8_t>& updates) {
  expect_equal_bits(AdamState<float>(sizes, frozen, updates));
  expect_equal_bits(AdamState<double>(sizes, frozen, updates));
}

TEST(AdamKernel, OneElement) { expect_equal_bits_of_both({1}, {0}, {1}); }
TEST(AdamKernel, MoreElementsThanThreads) { expect_equal_bits_of_both({1500, 2, 256, 257}, {0, 0, 0, 0}, {1}); }
TEST(AdamKernel, LeavesFrozenTensorsAndSkippedReplicasAlone) { expect_equal_bits_of_both({5, 40, 1}, {0, 1, 0, 0, 0, 0, 1, 1, 0}, {1, 0, 1}); }
TEST(AdamKernel, ShortensGradientsAndDecaysInEitherWay) {
  expect_equal_bits_of_both({40}, std::vector<std::uint8_t>(6), std::vector<std::uint8_t>(6, 1));
}

#ifndef __CUDACC__  // it is the emulator that names launches
TEST(AdamKernel, IsOneLaunch) {
  const DeviceAdam<float> device(AdamState<float>({1}, {0}, {0}));
  EXPECT_EQ(simt::launched_by([&] { adam_step_cuda(device.buffers(), nullptr); }), std::vector<std::string>{"adam_kernel<float>"});
}
#endif

}  // namespace
}  // namespace mnemo
