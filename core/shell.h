#pragma once

#include "core/files.h"

#include <string>

namespace mnemo {

/// `argument`, quoted for a shell where it needs to be.
inline std::string quoted(const std::string& argument) {
  if (!argument.empty() && argument.find_first_of(" \t\n\"'\\$&;|<>(){}[]*?!#~`") == std::string::npos) return argument;
  std::string text = "'";
  for (const char c : argument) text += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return text + "'";
}

/// "mnemo plot /a/run": a command line that works in any working directory.
inline std::string command_line(const std::string& program, const std::string& verb, const fs::path& path) {
  return quoted(program) + " " + verb + " " + quoted(canonical_path(path).string());
}

}  // namespace mnemo
