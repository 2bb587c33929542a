#pragma once

#include "core/log.h"

#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

namespace mnemo {

enum class ProgressStyle { automatic, bar, plain, none };

/// Throws std::invalid_argument for anything but auto, bar, plain, none.
ProgressStyle progress_style(const std::string& name);

/// Lines at the bottom of the terminal that are drawn again and again, each cut to its width. A process shows one such text at a time; whatever else
/// is printed takes a ProgressPause.
class LiveText {
 public:
  LiveText() = default;
  ~LiveText();
  LiveText(const LiveText&) = delete;
  LiveText& operator=(const LiveText&) = delete;

  void draw(std::vector<std::string> lines);

 private:
  friend class ProgressPause;
  void erase();
  void print() const;

  std::vector<std::string> lines_;
};

/// Shows how far a run is: one live line on a terminal, a timestamped line every ten seconds elsewhere.
class Progress {
 public:
  Progress(ProgressStyle style, Log log, std::int64_t begin, std::int64_t total);
  /// Redraws if due. `note`: loss and accuracy.
  void update(std::int64_t step, const std::string& note);
  double steps_per_second() const { return rate_; }
  /// Seconds left at the present speed; negative when unknown.
  double seconds_left() const;

 private:
  using Clock = std::chrono::steady_clock;

  ProgressStyle style_;
  Log log_;
  std::int64_t step_, total_;
  Clock::time_point drawn_at_, measured_at_;
  std::int64_t measured_step_;
  double rate_ = 0;
  LiveText live_;
};

/// Hides the live text while this object lives, so that other text can be printed.
class ProgressPause {
 public:
  ProgressPause();
  ~ProgressPause();
  ProgressPause(const ProgressPause&) = delete;
  ProgressPause& operator=(const ProgressPause&) = delete;
};

/// "1 h 02 min", "3 min 20 s", "12 s".
std::string duration_text(double seconds);

}  // namespace mnemo
