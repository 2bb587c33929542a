#pragma once

#include "core/array.h"
#include "core/philox.h"
#include "core/poll.h"

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace mnemo {

/// K binary sequences of L bits, packed, with their lexicographic order. Bit i of a row is bit 63 - i % 64 of word i / 64, so
/// comparing words compares sequences and counting leading zeros finds common prefixes.
class SequenceTable {
 public:
  /// Independent fair bits: a pure function of (seed, phase, rank).
  static SequenceTable random(std::uint32_t seed, std::uint32_t phase, std::int64_t num_sequences, std::int64_t length, const Poll& poll = {});
  /// Sequences that no phase holds (but by chance): a control for evaluation.
  static SequenceTable novel(std::uint32_t seed, std::int64_t num_sequences, std::int64_t length, Stream stream = Stream::novel_bits,
                             const Poll& poll = {});
  /// From a (K, L) array of integers 0 and 1: rank r is row rows[r], or row r where `rows` is empty. Throws std::invalid_argument naming
  /// the first other value.
  static SequenceTable from_array(const ArrayView& bits_KL, std::span<const std::int64_t> rows = {}, const Poll& poll = {});

  std::int64_t num_sequences() const { return num_sequences_; }
  std::int64_t length() const { return length_; }
  bool bit(std::int64_t rank, std::int64_t position) const {
    return (row(rank)[static_cast<std::size_t>(position / 64)] >> (63 - position % 64)) & 1;
  }
  /// The packed row; bits beyond the length are 0.
  std::span<const std::uint64_t> row(std::int64_t rank) const {
    return {words_.data() + rank * words_per_row_, static_cast<std::size_t>(words_per_row_)};
  }
  /// Number of leading bits that two sequences share, L when they are equal.
  std::int64_t common_prefix(std::int64_t rank_a, std::int64_t rank_b) const;
  /// Ranks in lexicographic order, equal sequences by rank; and the place of each rank in it.
  std::span<const std::int32_t> order() const { return order_; }
  std::int32_t place(std::int32_t rank) const { return place_[static_cast<std::size_t>(rank)]; }
  std::span<const std::int32_t> places() const { return place_; }
  /// All packed rows, one after the other.
  std::span<const std::uint64_t> words() const { return words_; }
  /// Unpacks the given ranks into uint8 rows of L.
  void unpack(std::span<const std::int32_t> ranks, std::uint8_t* bits) const;
  /// All bits as uint8 (K, L).
  std::vector<std::uint8_t> unpack_all() const;
  /// XXH3-128 of shape and bits.
  std::string digest() const;

 private:
  SequenceTable(std::int64_t num_sequences, std::int64_t length);
  void fill_random(std::uint32_t seed, Stream stream, std::uint32_t phase, RarePoll poll);
  void sort(RarePoll poll);

  std::int64_t num_sequences_, length_, words_per_row_;
  std::vector<std::uint64_t> words_;
  std::vector<std::int32_t> order_, place_;
};

}  // namespace mnemo
