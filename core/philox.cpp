#include "core/philox.h"

#include <Random123/philox.h>

#include <cmath>
#include <numbers>

namespace mnemo {

PhiloxBlock philox(std::uint32_t seed, Stream stream, PhiloxBlock counter) {
  r123::Philox4x32::key_type key{{seed, static_cast<std::uint32_t>(stream)}};
  r123::Philox4x32::ctr_type c{{counter[0], counter[1], counter[2], counter[3]}};
  const auto block = r123::Philox4x32{}(c, key);
  return {block[0], block[1], block[2], block[3]};
}

namespace {

/// FNV-1a: a stable number for a name.
std::uint32_t name_hash(std::string_view name) {
  std::uint32_t hash = 2166136261u;
  for (unsigned char c : name) hash = (hash ^ c) * 16777619u;
  return hash;
}

/// Uniform in (0, 1), never an end point.
double open_unit(std::uint64_t word) { return (static_cast<double>(word >> 11) + 0.5) * 0x1p-53; }

}  // namespace

void fill_normal(std::span<double> out, double std, std::uint32_t seed, std::string_view name) {
  const auto parameter = name_hash(name);
  for (std::size_t i = 0; i < out.size(); i += 2) {
    const std::uint64_t pair = i / 2;
    const auto block = philox(seed, Stream::weights, {static_cast<std::uint32_t>(pair), static_cast<std::uint32_t>(pair >> 32), parameter, 0});
    const double radius = std * std::sqrt(-2 * std::log(open_unit(word64(block, 0))));
    const double angle = 2 * std::numbers::pi * open_unit(word64(block, 1));
    out[i] = radius * std::cos(angle);
    if (i + 1 < out.size()) out[i + 1] = radius * std::sin(angle);
  }
}

}  // namespace mnemo
