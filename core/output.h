#pragma once

#include <string_view>

namespace mnemo {

/// Opens /dev/null in place of closed standard streams, so that no file of ours gets their numbers. Writing to standard output still fails.
void occupy_standard_streams();

/// From now on, output that standard output cannot take (a closed pipe, a full disk, a lost terminal) is dropped without an error.
void let_output_be_lost();

/// Writes text to standard error; what cannot be written is dropped.
void print_to_stderr(std::string_view text);

}  // namespace mnemo
