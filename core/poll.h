#pragma once

#include <cstddef>
#include <functional>

namespace mnemo {

/// Called between pieces of long work; throws to end it. An empty one never does.
using Poll = std::function<void()>;

/// Calls a Poll once in many turns of a fast loop.
class RarePoll {
 public:
  /// `poll` must outlive it.
  explicit RarePoll(const Poll& poll) : poll_(poll) {}
  void operator()(std::size_t turns = 1) {
    if ((turns_ += turns) < kTurns) return;
    turns_ = 0;
    if (poll_) poll_();
  }

 private:
  static constexpr std::size_t kTurns = 1 << 16;
  const Poll& poll_;
  std::size_t turns_ = 0;
};

}  // namespace mnemo
