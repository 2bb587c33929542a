#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string_view>

namespace mnemo {

/// Every consumer of random numbers has its own stream, so that adding one never shifts another's numbers.
enum class Stream : std::uint32_t {
  sequence_bits = 1,  ///< counter (rank, block of 128 bits, phase, 0)
  draws = 2,          ///< counter (step low, step high, pair of rows, 0)
  weights = 3,        ///< counter (block of 2 elements low, high, hash of the parameter's name, 0)
  novel_bits = 4,     ///< counter (index, block of 128 bits, 0, 0): held-out sequences
  probe_bits = 5,     ///< the same: sequences that fork_probe trains on and features looks at
  probe_draws = 6,    ///< as draws, in the training of a fork probe
};

using PhiloxBlock = std::array<std::uint32_t, 4>;

/// Philox4x32-10 (Salmon et al., SC 2011; Random123) with key (seed, stream): 128 random bits that depend on nothing else.
PhiloxBlock philox(std::uint32_t seed, Stream stream, PhiloxBlock counter);

/// The first (half = 0) or second 64 bits of a block, earlier words more significant.
constexpr std::uint64_t word64(const PhiloxBlock& block, int half) { return (std::uint64_t{block[2 * half]} << 32) | block[2 * half + 1]; }

/// Independent normal deviates (Box-Muller on 53-bit uniforms) with standard deviation `std`: element i depends on
/// (seed, name, i) only. `name` is the parameter's.
void fill_normal(std::span<double> out, double std, std::uint32_t seed, std::string_view name);

}  // namespace mnemo
