#include "core/draws.h"

#include "core/simt.h"

namespace mnemo {

namespace {

constexpr int kThreads = 128;

struct Block128 {
  std::uint32_t word[4];
};

/// Philox4x32-10 (Salmon et al., SC 2011), as philox() of core/philox.h.
__device__ Block128 philox(std::uint32_t key0, std::uint32_t key1, Block128 counter) {
  auto [c0, c1, c2, c3] = counter.word;
  for (int round = 0; round < 10; ++round) {
    const auto product0 = std::uint64_t{0xd2511f53} * c0, product1 = std::uint64_t{0xcd9e8d57} * c2;
    c0 = static_cast<std::uint32_t>(product1 >> 32) ^ c1 ^ key0, c1 = static_cast<std::uint32_t>(product1);
    c2 = static_cast<std::uint32_t>(product0 >> 32) ^ c3 ^ key1, c3 = static_cast<std::uint32_t>(product0);
    key0 += 0x9e3779b9, key1 += 0xbb67ae85;
  }
  return {{c0, c1, c2, c3}};
}

__device__ std::int32_t rank_of(const DeviceRankLaw& law, std::uint64_t uniform) {
  const auto high = uniform >> (64 - law.guide_bits);
  auto low = law.guide[high], end = law.guide[high + 1];
  while (low < end) {
    const auto middle = low + (end - low) / 2;
    if (law.first_beyond[middle] <= uniform) {
      low = middle + 1;
    } else {
      end = middle;
    }
  }
  return low;
}

/// Block (x, replica): a thread draws two ranks.
__global__ void __launch_bounds__(kThreads) draw_kernel(DeviceDraws d) {
  const auto pair = blockIdx.x * kThreads + threadIdx.x, row = 2 * pair;
  const auto batch = static_cast<unsigned>(d.batch);
  const auto step = static_cast<std::uint64_t>(*d.step);
  const auto random = philox(d.seed_R[blockIdx.y], d.stream, {{static_cast<std::uint32_t>(step), static_cast<std::uint32_t>(step >> 32), pair, 0}});
  const auto law = d.laws_R[blockIdx.y];
  std::int32_t* const drawn_B = d.drawn_RB + std::size_t{blockIdx.y} * batch;
  for (unsigned half = 0; half < 2 && row + half < batch; ++half) {
    drawn_B[row + half] = rank_of(law, std::uint64_t{random.word[2 * half]} << 32 | random.word[2 * half + 1]);
  }
}

}  // namespace

void draw_cuda(const DeviceDraws& draws, void* stream) {
  const auto pairs = (draws.batch + 1) / 2;
  const dim3 grid(static_cast<unsigned>((pairs + kThreads - 1) / kThreads), static_cast<unsigned>(draws.replicas));
  simt::launch<draw_kernel>(grid, kThreads, 0, stream, draws);
}

}  // namespace mnemo
