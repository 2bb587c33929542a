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
  /// Lines of level `least` and above go to standard error, with time and level unless it is a terminal.
  Log() = default;
  explicit Log(LogLevel least) : least_(least) {}

  /// A copy that also appends all lines to this file, with time and level. Warns if the file cannot be opened.
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

/// Whether standard error is a terminal that supports cursor control.
bool terminal();

}  // namespace mnemo
