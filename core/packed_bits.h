#pragma once

#include <torch/types.h>

#include <cstdint>

namespace mnemo {

/// Bits of packed rows (SequenceTable::row()): uint8 [..., L] of int64 words [..., W], on their device. Bits travel packed, 64 to a word, and are
/// unpacked where they are used.
torch::Tensor unpack_bits(const torch::Tensor& words, std::int64_t length);

}  // namespace mnemo
