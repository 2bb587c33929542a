#include "core/zipf.h"

#include <algorithm>
#include <cmath>

namespace mnemo {

RankSampler RankSampler::zipf(std::int64_t num_ranks, double exponent) {
  std::vector<double> mass(static_cast<std::size_t>(num_ranks));
  for (std::size_t a = 0; a < mass.size(); ++a) mass[a] = std::pow(static_cast<double>(a + 1), -exponent);
  return RankSampler(mass);
}

RankSampler::RankSampler(std::span<const double> mass) : probabilities_(mass.size()) {
  // smallest first, and in long double: the sum is right to the last bit of a double
  long double total = 0;
  for (std::size_t a = mass.size(); a-- > 0;) total += mass[a];
  std::size_t last = 0;  // the last rank that can be drawn takes what rounding leaves
  for (std::size_t a = 0; a < mass.size(); ++a) {
    probabilities_[a] = static_cast<double>(mass[a] / total);
    if (mass[a] > 0) last = a;
  }
  first_beyond_.reserve(last);
  long double cumulative = 0;
  for (std::size_t a = 0; a < last; ++a) {
    cumulative += mass[a];
    const long double scaled = std::min(cumulative / total, 1.0L) * 0x1p64L;
    first_beyond_.push_back(scaled >= 0x1p64L ? UINT64_MAX : static_cast<std::uint64_t>(scaled));
  }
  std::int32_t owner = 0;
  for (std::uint64_t high = 0; high < std::uint64_t{1} << kGuideBits; ++high) {
    while (owner < std::ssize(first_beyond_) && first_beyond_[static_cast<std::size_t>(owner)] <= high << (64 - kGuideBits)) ++owner;
    guide_.push_back(owner);
  }
  guide_.push_back(static_cast<std::int32_t>(first_beyond_.size()));
}

std::int32_t RankSampler::rank_of(std::uint64_t uniform) const {
  const auto high = static_cast<std::size_t>(uniform >> (64 - kGuideBits));
  const auto owner = std::upper_bound(first_beyond_.begin() + guide_[high], first_beyond_.begin() + guide_[high + 1], uniform);
  return static_cast<std::int32_t>(owner - first_beyond_.begin());
}

std::span<const std::int32_t> DrawStream::ranks(std::int64_t step) {
  if (chunk_begin_ < 0 || step < chunk_begin_ || step >= chunk_begin_ + kChunk) {
    chunk_begin_ = step - step % kChunk;
    chunk_.resize(static_cast<std::size_t>(kChunk * batch_size_));
    for (std::int64_t i = 0; i < kChunk; ++i) {
      draw(chunk_begin_ + i, std::span(chunk_).subspan(static_cast<std::size_t>(i * batch_size_), static_cast<std::size_t>(batch_size_)));
    }
  }
  return std::span(chunk_).subspan(static_cast<std::size_t>((step - chunk_begin_) * batch_size_), static_cast<std::size_t>(batch_size_));
}

void DrawStream::draw(std::int64_t step, std::span<std::int32_t> out) const {
  for (std::size_t row = 0; row < out.size(); row += 2) {
    const auto block =
        philox(seed_, stream_, {static_cast<std::uint32_t>(step), static_cast<std::uint32_t>(step >> 32), static_cast<std::uint32_t>(row / 2), 0});
    out[row] = sampler_->rank_of(word64(block, 0));
    if (row + 1 < out.size()) out[row + 1] = sampler_->rank_of(word64(block, 1));
  }
}

}  // namespace mnemo
