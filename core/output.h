#pragma once

#include <string_view>

namespace mnemo {

/// Puts /dev/null where standard input, output or error was closed, so that no file of ours takes its number. Writing to standard output fails still.
void occupy_standard_streams();

/// From now on standard output takes everything, and loses what nobody can have: after a closed pipe, on a full disk, on a terminal that is gone.
void let_output_be_lost();

/// Text as it is, to standard error. What cannot be written there is lost.
void print_to_stderr(std::string_view text);

}  // namespace mnemo
