#pragma once

#include <string>

namespace mnemo {

/// `argument` as a shell reads it back.
inline std::string quoted(const std::string& argument) {
  if (!argument.empty() && argument.find_first_of(" \t\n\"'\\$&;|<>(){}[]*?!#~`") == std::string::npos) return argument;
  std::string text = "'";
  for (const char c : argument) text += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return text + "'";
}

}  // namespace mnemo
