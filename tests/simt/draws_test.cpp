// Draws on the device against DrawStream: equal ranks.

#include "core/draws.h"
#include "core/zipf.h"
#include "simt_test.h"

#include <memory>

namespace mnemo {
namespace {

using simt::Device;
using Ranks = std::vector<std::int32_t>;

constexpr std::uint32_t kFirstSeed = 0xfffffff0;

/// A RankSampler on the device.
struct Uploaded {
  Device<std::uint64_t> first_beyond;
  Device<std::int32_t> guide;

  explicit Uploaded(const RankSampler& sampler)
      : first_beyond(std::vector<std::uint64_t>(sampler.first_beyond().begin(), sampler.first_beyond().end())),
        guide(Ranks(sampler.guide().begin(), sampler.guide().end())) {}
};

void expect_equal(const std::vector<RankSampler>& samplers, int batch, const std::vector<std::int64_t>& steps, Stream stream = Stream::draws) {
  std::vector<std::unique_ptr<Uploaded>> uploaded;
  std::vector<DeviceRankLaw> laws;
  std::vector<std::uint32_t> seeds;
  for (const auto& sampler : samplers) {
    uploaded.push_back(std::make_unique<Uploaded>(sampler));
    laws.push_back({uploaded.back()->first_beyond, uploaded.back()->guide, RankSampler::kGuideBits});
    seeds.push_back(kFirstSeed + 7 * static_cast<std::uint32_t>(seeds.size()));
  }
  const Device<DeviceRankLaw> laws_R(laws);
  const Device<std::uint32_t> seed_R(seeds);
  for (const auto number : steps) {
    SCOPED_TRACE("step " + std::to_string(number));
    const auto got = simt::in_every_order([&] {
      const Device<std::int64_t> step({number});
      const Device<std::int32_t> drawn(samplers.size() * static_cast<std::size_t>(batch));
      draw_cuda({static_cast<int>(samplers.size()), batch, static_cast<std::uint32_t>(stream), seed_R, laws_R, step, drawn}, nullptr);
      return drawn.host();
    });
    Ranks want;
    for (std::size_t r = 0; r < samplers.size(); ++r) {
      DrawStream draws(samplers[r], seeds[r], batch, stream);
      const auto ranks = draws.ranks(number);
      want.insert(want.end(), ranks.begin(), ranks.end());
    }
    EXPECT_EQ(got, want);
  }
}

TEST(DeviceDraws, OfZipfsLaw) { expect_equal({RankSampler::zipf(100000, 1)}, 257, {0, 1, 63, 64, 100000}); }
TEST(DeviceDraws, OfTheUniformLaw) { expect_equal({RankSampler::zipf(1000, 0)}, 30, {5}); }
TEST(DeviceDraws, OfOneRank) { expect_equal({RankSampler::zipf(1, 1)}, 1, {0, 3}); }
TEST(DeviceDraws, OfRanksThatAreNeverDrawn) { expect_equal({RankSampler(std::vector<double>{0, 1, 0, 0, 2, 1e-9, 0})}, 99, {2}); }
TEST(DeviceDraws, OfManyEqualThresholds) {
  std::vector<double> mass(3000, 1e-30);
  mass[1500] = 1;
  expect_equal({RankSampler(mass)}, 16, {0});
}
TEST(DeviceDraws, OfTheHighestIntegers) {  // where the guide ends
  const auto is_high = [](std::int64_t step) {
    return word64(philox(kFirstSeed, Stream::draws, {static_cast<std::uint32_t>(step), 0, 0, 0}), 0) >> (64 - RankSampler::kGuideBits) == 0xffff;
  };
  std::int64_t step = 0;
  while (!is_high(step)) ++step;
  expect_equal({RankSampler::zipf(100000, 1)}, 1, {step});
}
TEST(DeviceDraws, OfStepsBeyondThirtyTwoBits) { expect_equal({RankSampler::zipf(50, 1)}, 5, {(std::int64_t{3} << 32) + 5}); }
TEST(DeviceDraws, OfReplicasWithSeedsAndLawsOfTheirOwn) {
  expect_equal({RankSampler::zipf(500, 1), RankSampler::zipf(500, 0), RankSampler::zipf(7, 2)}, 33, {0, 9}, Stream::probe_draws);
}

}  // namespace
}  // namespace mnemo
