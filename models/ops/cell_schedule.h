#pragma once

#include "core/batches.h"
#include "models/ops/vector.h"

#include <numeric>

namespace mnemo {

/// How the cells of a batch are grouped.
enum class GroupCells {
  by_position,          ///< a chunk holds cells of one position
  by_position_and_bit,  ///< and the bit there; a chunk holds whole groups where they fit
};

/// The cells of a batch in the order in which a step works on them: by position, by the bit there if asked, and by row, cut into chunks whose
/// activations fit the cache, a range of positions for each thread.
template <class Real>
struct CellSchedule {
  /// Cells of one group, in a chunk's slots [begin, end).
  struct Run {
    std::int64_t position;
    int bit;  ///< there; 0 where cells are grouped by position
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

  CellSchedule(GroupCells by, std::int64_t max_chunk) : groups_of_position_(by == GroupCells::by_position ? 1 : 2), max_chunk_(max_chunk) {}

  /// `fixed_work`: a cell costs this much, and 1 more for every position it attends to.
  void make(const Cells& cells, const SequenceTable& table, std::int64_t threads, std::int64_t fixed_work) {
    count_groups(cells, table);
    share_positions(threads, fixed_work);
    cut();
    place(cells);
  }

 private:
  void count_groups(const Cells& cells, const SequenceTable& table);
  void share_positions(std::int64_t threads, std::int64_t fixed_work);
  void cut();
  void place(const Cells& cells);
  std::int64_t num_positions() const { return static_cast<std::int64_t>(group_size_.size()) / groups_of_position_; }

  std::int64_t groups_of_position_, max_chunk_;
  std::vector<std::int32_t> group_;                    // of each cell: its position, or 2 position + bit
  std::vector<std::int64_t> group_size_, group_slot_;  // group_slot_: of its first cell
};

template <class Real>
void CellSchedule<Real>::count_groups(const Cells& cells, const SequenceTable& table) {
  group_.resize(static_cast<std::size_t>(cells.num_cells()));
  group_size_.assign(static_cast<std::size_t>(groups_of_position_ * cells.num_positions()), 0);
  for (std::size_t i = 0; i < group_.size(); ++i) {
    const auto position = cells.position[i];
    group_[i] = groups_of_position_ == 1 ? position : 2 * position + table.bit(cells.ranks[static_cast<std::size_t>(cells.row[i])], position);
    ++group_size_[static_cast<std::size_t>(group_[i])];
  }
}

/// first_position: ranges of nearly equal work.
template <class Real>
void CellSchedule<Real>::share_positions(std::int64_t threads, std::int64_t fixed_work) {
  const auto work = [&](std::int64_t position) {
    const auto* size = group_size_.data() + groups_of_position_ * position;
    return std::accumulate(size, size + groups_of_position_, std::int64_t{0}) * (fixed_work + position);
  };
  std::int64_t total = 0, done = 0;
  for (std::int64_t position = 0; position < num_positions(); ++position) total += work(position);
  first_position.assign(1, 0);
  for (std::int64_t position = 0; position < num_positions(); ++position) {
    const auto owners = static_cast<std::int64_t>(first_position.size());
    if (owners < threads && (2 * done + work(position)) * threads >= 2 * total * owners) first_position.push_back(position);
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
    for (auto group = groups_of_position_ * first_position[t]; group < groups_of_position_ * first_position[t + 1]; ++group) {
      auto left = group_size_[static_cast<std::size_t>(group)];
      if (left > room || groups_of_position_ == 1) room = 0;
      if (room == 0) slot = round_up(slot, kLanes<Real>);
      group_slot_[static_cast<std::size_t>(group)] = slot;
      while (left > 0) {
        if (room == 0) {
          chunks.push_back({runs.size(), runs.size(), slot, slot});
          room = max_chunk_;
        }
        const auto taken = std::min(left, room);
        runs.push_back({group / groups_of_position_, static_cast<int>(group % groups_of_position_), slot, slot + taken});
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
