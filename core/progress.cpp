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

LiveText* live = nullptr;  // what is on the terminal

std::size_t terminal_width() {
  winsize size{};
  return ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
}

/// The first `columns` characters: continuation bytes of UTF-8 take no column.
std::string cut(const std::string& line, std::size_t columns) {
  std::size_t end = 0;
  for (; end < line.size() && columns > 0; --columns) {
    ++end;
    while (end < line.size() && (static_cast<unsigned char>(line[end]) & 0xC0) == 0x80) ++end;
  }
  return line.substr(0, end);
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
    live_.draw({fmt::format("{} {:3.0f}%  {}/{}  {}  {}  {}", bar(share), 100 * share, step, total_, speed, note, left)});
  } else {
    log_.info("step {}/{} ({:.0f}%)  {}  {}  {}", step, total_, 100 * share, speed, note, left);
  }
}

LiveText::~LiveText() {
  if (live != this) return;
  erase();
  live = nullptr;
}

void LiveText::draw(std::vector<std::string> lines) {
  if (live != nullptr) live->erase();
  live = this;
  lines_ = std::move(lines);
  print();
}

void LiveText::erase() {
  if (lines_.empty()) return;
  print_to_stderr(lines_.size() > 1 ? fmt::format("\r\x1b[{}A\x1b[J", lines_.size() - 1) : "\r\x1b[K");
}

void LiveText::print() const {
  std::string text;
  for (const auto& line : lines_) text += (text.empty() ? "" : "\n") + cut(line, terminal_width() - 1);
  print_to_stderr(text);
}

ProgressPause::ProgressPause() {
  if (live != nullptr) live->erase();
}

ProgressPause::~ProgressPause() {
  if (live != nullptr) live->print();
}

}  // namespace mnemo
