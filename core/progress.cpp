#include "core/progress.h"

#include "core/output.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <stdexcept>

namespace mnemo {

namespace {

constexpr auto kRedrawEvery = std::chrono::milliseconds(100);
constexpr auto kLineEvery = std::chrono::seconds(10);
constexpr double kMeasureSeconds = 0.5;  // a speed is the mean over at least this long, then smoothed
constexpr int kBarWidth = 24;

Progress* live_bar = nullptr;  // the one whose line is on the terminal: a process has one

std::size_t terminal_width() {
  winsize size{};
  return ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
}

std::string bar(double share) {
  const int full = static_cast<int>(share * kBarWidth + 1e-9);
  std::string text;
  for (int i = 0; i < kBarWidth; ++i) text += i < full ? "█" : "·";
  return text;
}

}  // namespace

ProgressStyle progress_style(const std::string& name) {
  if (name == "auto") return ProgressStyle::automatic;
  if (name == "bar") return ProgressStyle::bar;
  if (name == "plain") return ProgressStyle::plain;
  if (name == "none") return ProgressStyle::none;
  throw std::invalid_argument(fmt::format("--progress must be auto, bar, plain or none; got '{}'", name));
}

std::string duration_text(double seconds) {
  const auto s = static_cast<std::int64_t>(std::llround(std::max(0.0, seconds)));
  if (s >= 3600) return fmt::format("{} h {:02} min", s / 3600, s / 60 % 60);
  if (s >= 60) return fmt::format("{} min {:02} s", s / 60, s % 60);
  return fmt::format("{} s", s);
}

Progress::Progress(ProgressStyle style, Log log, std::int64_t begin, std::int64_t total)
    : style_(style), log_(std::move(log)), step_(begin), total_(total), drawn_at_(Clock::now()), measured_at_(drawn_at_), measured_step_(begin) {
  if (style_ == ProgressStyle::automatic) style_ = terminal() ? ProgressStyle::bar : ProgressStyle::plain;
}

Progress::~Progress() {
  erase();
  if (live_bar == this) live_bar = nullptr;
}

double Progress::seconds_left() const { return rate_ > 0 ? static_cast<double>(total_ - step_) / rate_ : -1; }

void Progress::update(std::int64_t step, const std::string& note) {
  const auto now = Clock::now();
  step_ = step;
  const double elapsed = std::chrono::duration<double>(now - measured_at_).count();
  if (elapsed >= kMeasureSeconds && step > measured_step_) {
    const double rate = static_cast<double>(step - measured_step_) / elapsed;
    rate_ = rate_ == 0 ? rate : 0.7 * rate_ + 0.3 * rate;
    measured_at_ = now;
    measured_step_ = step;
  }
  if (style_ == ProgressStyle::none) return;
  if (now - drawn_at_ < (style_ == ProgressStyle::bar ? Clock::duration(kRedrawEvery) : Clock::duration(kLineEvery))) return;
  drawn_at_ = now;
  const double share = static_cast<double>(step) / static_cast<double>(total_);
  const auto speed = rate_ > 0 ? fmt::format("{:.{}f} steps/s", rate_, rate_ < 10 ? 2 : 0) : std::string("-");
  const auto left = rate_ > 0 ? duration_text(seconds_left()) + " left" : std::string("-");
  if (style_ == ProgressStyle::bar) {
    draw(fmt::format("{} {:3.0f}%  {}/{}  {}  {}  {}", bar(share), 100 * share, step, total_, speed, note, left));
  } else {
    log_.info("step {}/{} ({:.0f}%)  {}  {}  {}", step, total_, 100 * share, speed, note, left);
  }
}

void Progress::draw(const std::string& line) {
  line_ = line;
  live_bar = this;
  // count characters, not bytes: continuation bytes of UTF-8 take no column
  std::size_t columns = 0, end = 0;
  const auto width = terminal_width() - 1;
  while (end < line.size() && columns < width) {
    ++end;
    while (end < line.size() && (static_cast<unsigned char>(line[end]) & 0xC0) == 0x80) ++end;
    ++columns;
  }
  print_to_stderr("\r\x1b[K" + line.substr(0, end));
}

void Progress::erase() {
  if (line_.empty()) return;
  print_to_stderr("\r\x1b[K");
}

ProgressPause::ProgressPause() {
  if (live_bar != nullptr) live_bar->erase();
}

ProgressPause::~ProgressPause() {
  if (live_bar != nullptr && !live_bar->line_.empty()) live_bar->draw(live_bar->line_);
}

}  // namespace mnemo
