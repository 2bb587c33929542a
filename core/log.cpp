#include "core/log.h"

#include "core/output.h"
#include "core/progress.h"

#include <spdlog/sinks/basic_file_sink.h>
#include <spdlog/spdlog.h>

#include <unistd.h>

#include <cstdlib>

namespace mnemo {

namespace {

constexpr const char* kTimed = "%Y-%m-%d %H:%M:%S %^%l%$ %v";

spdlog::level::level_enum level_of(LogLevel level) {
  switch (level) {
    case LogLevel::info: return spdlog::level::info;
    case LogLevel::warning: return spdlog::level::warn;
    case LogLevel::error: return spdlog::level::err;
  }
  return spdlog::level::off;
}

/// Whether to use colours: on a terminal, unless NO_COLOR is set.
bool colour() {
  static const bool wanted = terminal() && (std::getenv("NO_COLOR") == nullptr || *std::getenv("NO_COLOR") == '\0');
  return wanted;
}

/// Writes to standard error in spdlog's format. The progress bar makes room.
void print(LogLevel level, const std::string& line) {
  const ProgressPause pause;
  if (terminal()) {
    const char* tag = level == LogLevel::info ? "" : level == LogLevel::warning ? "warning: " : "error: ";
    const bool red = level != LogLevel::info && colour();
    print_to_stderr(fmt::format("{}{}{}{}\n", red ? "\x1b[31m" : "", tag, red ? "\x1b[0m" : "", line));
  } else {
    spdlog::memory_buf_t text;
    spdlog::pattern_formatter("%Y-%m-%d %H:%M:%S %l %v").format({"", level_of(level), line}, text);
    print_to_stderr({text.data(), text.size()});
  }
}

}  // namespace

Log Log::with_file(const std::filesystem::path& path) const {
  auto log = *this;
  try {
    log.file_ = std::make_shared<spdlog::logger>("file", std::make_shared<spdlog::sinks::basic_file_sink_mt>(path.string()));
    log.file_->set_pattern(kTimed);
    log.file_->flush_on(spdlog::level::info);
    log.file_->set_error_handler([](const std::string&) {});  // a full disk is reported where it matters
  } catch (const spdlog::spdlog_ex& error) {
    line(LogLevel::warning, fmt::format("no log file: {}", error.what()));
  }
  return log;
}

void Log::line(LogLevel level, const std::string& text) const {
  if (level >= least_) print(level, text);
  if (file_) file_->log(level_of(level), text);
}

bool terminal() {
  static const bool is_terminal = [] {
    const char* term = std::getenv("TERM");
    const std::string_view name = term == nullptr ? "" : term;
    return isatty(STDERR_FILENO) != 0 && !name.empty() && name != "dumb";
  }();
  return is_terminal;
}

}  // namespace mnemo
