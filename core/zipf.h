#pragma once

#include "core/philox.h"

#include <cstdint>
#include <span>
#include <vector>

namespace mnemo {

/// Draws ranks 0..K-1 with given probabilities, exactly to the tail: rank a owns the 64-bit integers between two
/// thresholds, whose number is p_a 2^64 to within one. (float32 cumulative sums lose the tail from K = 1e5 on.)
class RankSampler {
 public:
  /// p_a proportional to (a+1)^-exponent. num_ranks >= 1, exponent >= 0.
  static RankSampler zipf(std::int64_t num_ranks, double exponent);
  /// p proportional to `mass`: finite, >= 0, with a positive sum.
  explicit RankSampler(std::span<const double> mass);

  const std::vector<double>& probabilities() const { return probabilities_; }
  /// The rank that owns this uniform 64-bit integer.
  std::int32_t rank_of(std::uint64_t uniform) const;

  // What rank_of() searches. Rank a owns the integers [first_beyond[a-1], first_beyond[a]); the last rank that can be drawn has no entry.
  std::span<const std::uint64_t> first_beyond() const { return first_beyond_; }
  /// The owner of the smallest integer with given kGuideBits high bits: where a search begins, and ends.
  std::span<const std::int32_t> guide() const { return guide_; }
  static constexpr int kGuideBits = 16;

 private:
  std::vector<double> probabilities_;
  std::vector<std::uint64_t> first_beyond_;
  std::vector<std::int32_t> guide_;
};

/// The draws of a training run: B ranks per step, a function of (seed, step) alone. Drawn ahead of time, in chunks of steps.
class DrawStream {
 public:
  /// `sampler` must outlive the stream.
  DrawStream(const RankSampler& sampler, std::uint32_t seed, std::int64_t batch_size, Stream stream = Stream::draws)
      : sampler_(&sampler), seed_(seed), batch_size_(batch_size), stream_(stream) {}

  const RankSampler& sampler() const { return *sampler_; }
  std::uint32_t seed() const { return seed_; }
  std::int64_t batch_size() const { return batch_size_; }
  Stream stream() const { return stream_; }

  /// The B ranks of update number `step` (0-based). Valid until the next call.
  std::span<const std::int32_t> ranks(std::int64_t step);

 private:
  static constexpr std::int64_t kChunk = 64;  // steps
  void draw(std::int64_t step, std::span<std::int32_t> out) const;

  const RankSampler* sampler_;
  std::uint32_t seed_;
  std::int64_t batch_size_;
  Stream stream_;
  std::int64_t chunk_begin_ = -1;
  std::vector<std::int32_t> chunk_;
};

}  // namespace mnemo
