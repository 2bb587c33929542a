#pragma once

#include "core/batches.h"
#include "models/ops/vector.h"

namespace mnemo {

/// The cells of a batch in the order in which a step works on them: by (position, bit there, row), cut into chunks
/// whose activations fit the cache, a range of positions for each thread.
template <class Real>
struct CellSchedule {
  /// Cells at one position with one bit there, in a chunk's slots [begin, end).
  struct Run {
    std::int64_t position;
    int bit;
    std::int64_t begin, end;
  };
  struct Chunk {
    std::size_t first_run, last_run;  ///< runs[first_run, last_run)
    std::int64_t begin, end;          ///< slots; begin is a multiple of the vector width
  };
  std::vector<Run> runs;
  std::vector<Chunk> chunks;
  std::vector<std::int64_t> first_position;  ///< of each thread, and the end
  std::vector<std::size_t> first_chunk;      ///< of each thread, and the end

  // by slot; slots between chunks hold no cell and weigh nothing
  std::vector<std::int32_t> cell, row;
  std::vector<Real, CacheLineAllocator<Real>> weight_zero, weight_one;  ///< loss weights of next bit 0 and 1

  int bits = 4;                        ///< of a pattern
  std::int64_t pattern_stride = 0;     ///< patterns of a row
  std::vector<std::uint8_t> patterns;  ///< [U, pattern_stride], see selected_sums.h

  explicit CellSchedule(std::int64_t max_chunk) : max_chunk_(max_chunk) {}

  /// `fixed_work`: a cell costs this much, and 1 more for every position it attends to.
  void make(const Cells& cells, const SequenceTable& table, std::int64_t threads, std::int64_t fixed_work) {
    make_patterns(cells, table);
    count_groups(cells, table);
    share_positions(threads, fixed_work);
    cut();
    place(cells);
  }

 private:
  void make_patterns(const Cells& cells, const SequenceTable& table);
  void count_groups(const Cells& cells, const SequenceTable& table);
  void share_positions(std::int64_t threads, std::int64_t fixed_work);
  void cut();
  void place(const Cells& cells);
  std::int64_t num_positions() const { return static_cast<std::int64_t>(group_size_.size()) / 2; }

  std::int64_t max_chunk_;
  std::vector<std::int32_t> group_;                    // of each cell: 2 position + bit
  std::vector<std::int64_t> group_size_, group_slot_;  // group_slot_: of its first cell
};

/// Bits of the rows in patterns of 4, or of 2 where few cells would share a table of 2^4 sums.
template <class Real>
void CellSchedule<Real>::make_patterns(const Cells& cells, const SequenceTable& table) {
  bits = cells.num_cells() >= 16 * 2 * (cells.length - 1) ? 4 : 2;
  pattern_stride = (cells.length + bits - 1) / bits;
  patterns.resize(static_cast<std::size_t>(cells.num_rows() * pattern_stride));
  auto* out = patterns.data();
  for (const auto rank : cells.ranks) {
    const auto words = table.row(rank);
    for (std::int64_t at = 0; at < cells.length; at += bits) {
      *out++ = words[static_cast<std::size_t>(at / 64)] >> (64 - bits - at % 64) & ((1U << bits) - 1);
    }
  }
}

template <class Real>
void CellSchedule<Real>::count_groups(const Cells& cells, const SequenceTable& table) {
  group_.resize(static_cast<std::size_t>(cells.num_cells()));
  group_size_.assign(static_cast<std::size_t>(2 * (cells.length - 1)), 0);
  for (std::size_t i = 0; i < group_.size(); ++i) {
    const auto position = cells.position[i];
    group_[i] = 2 * position + table.bit(cells.ranks[static_cast<std::size_t>(cells.row[i])], position);
    ++group_size_[static_cast<std::size_t>(group_[i])];
  }
}

/// first_position: ranges of nearly equal work.
template <class Real>
void CellSchedule<Real>::share_positions(std::int64_t threads, std::int64_t fixed_work) {
  const auto work = [&](std::int64_t position) {
    const auto group = static_cast<std::size_t>(2 * position);
    return (group_size_[group] + group_size_[group + 1]) * (fixed_work + position);
  };
  std::int64_t total = 0, done = 0;
  for (std::int64_t position = 0; position < num_positions(); ++position) total += work(position);
  first_position.assign(1, 0);
  for (std::int64_t position = 0; position < num_positions(); ++position) {
    const auto owners = static_cast<std::int64_t>(first_position.size());
    if (owners < threads && (2 * done + work(position)) * threads >= 2 * total * owners)
      first_position.push_back(position);
    done += work(position);
  }
  first_position.resize(static_cast<std::size_t>(threads) + 1, num_positions());
}

/// Groups to runs and chunks: a chunk takes whole groups while they fit; a group larger than a chunk is cut.
template <class Real>
void CellSchedule<Real>::cut() {
  runs.clear();
  chunks.clear();
  first_chunk.clear();
  group_slot_.resize(group_size_.size());
  std::int64_t slot = 0;
  for (std::size_t t = 0; t + 1 < first_position.size(); ++t) {
    first_chunk.push_back(chunks.size());
    std::int64_t room = 0;  // left in the last chunk
    for (auto group = 2 * first_position[t]; group < 2 * first_position[t + 1]; ++group) {
      auto left = group_size_[static_cast<std::size_t>(group)];
      if (left > room) room = 0;
      if (room == 0) slot = round_up(slot, kLanes<Real>);
      group_slot_[static_cast<std::size_t>(group)] = slot;
      while (left > 0) {
        if (room == 0) {
          chunks.push_back({runs.size(), runs.size(), slot, slot});
          room = max_chunk_;
        }
        const auto taken = std::min(left, room);
        runs.push_back({group / 2, static_cast<int>(group % 2), slot, slot + taken});
        slot += taken, left -= taken, room -= taken;
        chunks.back().end = slot;
        chunks.back().last_run = runs.size();
      }
    }
  }
  first_chunk.push_back(chunks.size());
}

/// Cells to slots.
template <class Real>
void CellSchedule<Real>::place(const Cells& cells) {
  const auto slots = static_cast<std::size_t>(runs.empty() ? 0 : round_up(runs.back().end, kLanes<Real>));
  cell.assign(slots, -1);
  row.assign(slots, 0);
  weight_zero.assign(slots, 0);
  weight_one.assign(slots, 0);
  for (std::size_t i = 0; i < group_.size(); ++i) {
    const auto at = static_cast<std::size_t>(group_slot_[static_cast<std::size_t>(group_[i])]++);
    cell[at] = static_cast<std::int32_t>(i);
    row[at] = cells.row[i];
    weight_zero[at] = static_cast<Real>(cells.weight[2 * i]);
    weight_one[at] = static_cast<Real>(cells.weight[2 * i + 1]);
  }
}

}  // namespace mnemo
