#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <vector>

namespace mnemo {

inline std::size_t product(int a, int b = 1, int c = 1, int d = 1) {
  return static_cast<std::size_t>(a) * static_cast<std::size_t>(b) * static_cast<std::size_t>(c) * static_cast<std::size_t>(d);
}

/// What MemoryQueue does, without LibTorch: the last M ids, phase << 32 | rank.
struct PlainQueue {
  std::size_t capacity;
  std::deque<std::int64_t> slots;

  void push(std::int64_t id) {
    slots.push_back(id);
    if (slots.size() > capacity) slots.pop_front();
  }
  /// As in a checkpoint.
  std::vector<std::int64_t> state() const {
    std::vector<std::int64_t> ids(slots.begin(), slots.end());
    ids.resize(capacity, -1);
    return ids;
  }
  /// With counts, by id.
  std::map<std::int64_t, int> distinct() const {
    std::map<std::int64_t, int> count;
    for (const auto id : slots) ++count[id];
    return count;
  }
};

}  // namespace mnemo
