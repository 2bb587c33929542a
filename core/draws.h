#pragma once

// The draws of core/zipf.h on a GPU. No torch header, C++17: nvcc compiles this too.

#include <cstddef>
#include <cstdint>

namespace mnemo {

/// A RankSampler's thresholds and guide.
struct DeviceRankLaw {
  const std::uint64_t* first_beyond = nullptr;  ///< rank a owns the integers from the threshold before its own up to its own; the last has none
  const std::int32_t* guide = nullptr;          ///< [2^guide_bits + 1] the owner of the smallest integer with given high bits
  int guide_bits = 0;
};

/// All pointers live on one device.
struct DeviceDraws {
  int replicas, batch;   ///< R, B
  std::uint32_t stream;  ///< a Stream of core/philox.h
  const std::uint32_t* seed_R;
  const DeviceRankLaw* laws_R;
  const std::int64_t* step;  ///< [1] number of the update, from 0
  std::int32_t* drawn_RB;    ///< written
};

/// The ranks that DrawStream::ranks(*step) gives, bit for bit. One launch on `stream` (a cudaStream_t). Throws std::runtime_error.
void draw_cuda(const DeviceDraws& draws, void* stream);

}  // namespace mnemo
