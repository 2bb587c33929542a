#pragma once

#include <fmt/format.h>

#include <filesystem>
#include <string>

namespace mnemo {

enum class LogLevel { info, warning, error };

/// From now on lines also go to this file, with time and level. An empty path: no longer.
void log_to_file(const std::filesystem::path& path);
/// From now on standard error gets no lines below this level; the log file gets all.
void log_to_terminal(LogLevel least);
/// One line to standard error (with time and level where that is no terminal) and to the log file.
void log_line(LogLevel level, const std::string& line);
/// Whether standard error is a terminal that takes cursor control.
bool terminal();
/// ANSI codes are wanted: a terminal, and NO_COLOR is not set.
bool colour();

template <class... Args>
void log_info(fmt::format_string<Args...> format, Args&&... args) {
  log_line(LogLevel::info, fmt::format(format, std::forward<Args>(args)...));
}
template <class... Args>
void log_warning(fmt::format_string<Args...> format, Args&&... args) {
  log_line(LogLevel::warning, fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace mnemo
