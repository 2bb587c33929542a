#include "core/sequences.h"

#include "core/files.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <numeric>
#include <stdexcept>

namespace mnemo {

SequenceTable::SequenceTable(std::int64_t num_sequences, std::int64_t length)
    : num_sequences_(num_sequences),
      length_(length),
      words_per_row_((length + 63) / 64),
      words_(static_cast<std::size_t>(num_sequences * words_per_row_)) {}

SequenceTable SequenceTable::random(std::uint32_t seed, std::uint32_t phase, std::int64_t num_sequences, std::int64_t length, const Poll& poll) {
  SequenceTable table(num_sequences, length);
  table.fill_random(seed, Stream::sequence_bits, phase, RarePoll(poll));
  table.sort(RarePoll(poll));
  return table;
}

SequenceTable SequenceTable::novel(std::uint32_t seed, std::int64_t num_sequences, std::int64_t length, Stream stream, const Poll& poll) {
  SequenceTable table(num_sequences, length);
  table.fill_random(seed, stream, 0, RarePoll(poll));
  table.sort(RarePoll(poll));
  return table;
}

SequenceTable SequenceTable::from_array(const ArrayView& bits_KL, std::span<const std::int64_t> rows, const Poll& poll) {
  SequenceTable table(bits_KL.shape.at(0), bits_KL.shape.at(1));
  const auto value_at = [&](std::int64_t i) -> std::int64_t {
    switch (bits_KL.dtype) {
      case Dtype::u8: return bits_KL.as<std::uint8_t>()[static_cast<std::size_t>(i)];
      case Dtype::i32: return bits_KL.as<std::int32_t>()[static_cast<std::size_t>(i)];
      case Dtype::i64: return bits_KL.as<std::int64_t>()[static_cast<std::size_t>(i)];
      default: throw std::invalid_argument("holds floating-point numbers, expected integers 0 and 1");
    }
  };
  RarePoll rare(poll);
  for (std::int64_t rank = 0; rank < table.num_sequences_; ++rank) {
    rare();
    const auto row = rows.empty() ? rank : rows[static_cast<std::size_t>(rank)];
    for (std::int64_t position = 0; position < table.length_; ++position) {
      const auto value = value_at(row * table.length_ + position);
      if (value != 0 && value != 1) {
        throw std::invalid_argument(fmt::format("holds {} at row {}, column {}; expected bits 0 and 1", value, row, position));
      }
      if (value == 1) {
        table.words_[static_cast<std::size_t>(rank * table.words_per_row_ + position / 64)] |= std::uint64_t{1} << (63 - position % 64);
      }
    }
  }
  table.sort(rare);
  return table;
}

void SequenceTable::fill_random(std::uint32_t seed, Stream stream, std::uint32_t phase, RarePoll poll) {
  const std::uint64_t last_word_mask = length_ % 64 == 0 ? ~std::uint64_t{0} : ~(~std::uint64_t{0} >> (length_ % 64));
  for (std::int64_t rank = 0; rank < num_sequences_; ++rank) {
    poll();
    auto* words = words_.data() + rank * words_per_row_;
    for (std::int64_t w = 0; w < words_per_row_; w += 2) {
      const auto block = philox(seed, stream, {static_cast<std::uint32_t>(rank), static_cast<std::uint32_t>(w / 2), phase, 0});
      words[w] = word64(block, 0);
      if (w + 1 < words_per_row_) words[w + 1] = word64(block, 1);
    }
    words[words_per_row_ - 1] &= last_word_mask;
  }
}

void SequenceTable::sort(RarePoll poll) {
  order_.resize(static_cast<std::size_t>(num_sequences_));
  std::iota(order_.begin(), order_.end(), 0);
  std::sort(order_.begin(), order_.end(), [&](std::int32_t a, std::int32_t b) {
    poll();
    const auto row_a = row(a), row_b = row(b);
    const auto [at_a, at_b] = std::mismatch(row_a.begin(), row_a.end(), row_b.begin());
    return at_a == row_a.end() ? a < b : *at_a < *at_b;
  });
  place_.resize(order_.size());
  for (std::size_t i = 0; i < order_.size(); ++i) place_[static_cast<std::size_t>(order_[i])] = static_cast<std::int32_t>(i);
}

std::int64_t SequenceTable::common_prefix(std::int64_t rank_a, std::int64_t rank_b) const {
  const auto a = row(rank_a), b = row(rank_b);
  for (std::size_t w = 0; w < a.size(); ++w) {
    if (const auto differing = a[w] ^ b[w]; differing != 0) {
      return static_cast<std::int64_t>(w) * 64 + std::countl_zero(differing);
    }
  }
  return length_;
}

void SequenceTable::unpack(std::span<const std::int32_t> ranks, std::uint8_t* bits) const {
  for (const auto rank : ranks) {
    for (std::int64_t position = 0; position < length_; ++position) *bits++ = bit(rank, position);
  }
}

std::vector<std::uint8_t> SequenceTable::unpack_all() const {
  std::vector<std::int32_t> ranks(static_cast<std::size_t>(num_sequences_));
  std::iota(ranks.begin(), ranks.end(), 0);
  std::vector<std::uint8_t> bits(static_cast<std::size_t>(num_sequences_ * length_));
  unpack(ranks, bits.data());
  return bits;
}

std::string SequenceTable::digest() const {
  const std::string shape = fmt::format("{} {} ", num_sequences_, length_);
  return hash_of(shape + hash_of({reinterpret_cast<const char*>(words_.data()), words_.size() * sizeof(std::uint64_t)}));
}

}  // namespace mnemo
