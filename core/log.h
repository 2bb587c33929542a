#pragma once

#include <fmt/format.h>

#include <filesystem>
#include <memory>
#include <string>

namespace spdlog {
class logger;
}

namespace mnemo {

enum class LogLevel { info, warning, error };

/// Where the lines of a command or a run go. Copies share the file.
class Log {
 public:
  /// Standard error gets the lines from `least` on, with time and level where it is no terminal.
  Log() = default;
  explicit Log(LogLevel least) : least_(least) {}

  /// The same, and all lines to the end of this file too, with time and level. Says where there can be none.
  Log with_file(const std::filesystem::path& path) const;

  void line(LogLevel level, const std::string& text) const;

  template <class... Args>
  void info(fmt::format_string<Args...> format, Args&&... args) const {
    line(LogLevel::info, fmt::format(format, std::forward<Args>(args)...));
  }
  template <class... Args>
  void warning(fmt::format_string<Args...> format, Args&&... args) const {
    line(LogLevel::warning, fmt::format(format, std::forward<Args>(args)...));
  }

 private:
  LogLevel least_ = LogLevel::info;
  std::shared_ptr<spdlog::logger> file_;
};

/// Whether standard error is a terminal that takes cursor control.
bool terminal();
/// ANSI codes are wanted: a terminal, and NO_COLOR is not set.
bool colour();

}  // namespace mnemo
