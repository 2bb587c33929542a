#pragma once

#include <torch/types.h>

#include <cstdint>

namespace mnemo {

/// Unpacks rows as SequenceTable::row() packs them: int64 words [..., W] to uint8 bits [..., L], on the same device. Bits travel to a device packed,
/// 64 to a word.
torch::Tensor unpack_bits(const torch::Tensor& words, std::int64_t length);

}  // namespace mnemo
