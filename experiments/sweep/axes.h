#pragma once

#include "core/config.h"

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace mnemo {

/// Settings that a sweep varies together: one key for a plain axis, several for a zip.
struct Axis {
  std::vector<std::string> keys;
  std::vector<std::vector<std::string>> values;           ///< (points, keys), each as YAML in one line: `key=value` is an override
  std::vector<std::vector<config_detail::Node>> nodes{};  ///< (points, keys) of the file; empty for an axis of the command line

  bool has(std::string_view key) const;
};

/// Throws ConfigError at an argument of the command line.
[[noreturn]] void refuse_argument(const std::string& argument, const std::string& what);

/// The axes of a `sweep:` block that was taken out of `source`, in its order; what is wrong with it is added to `source`.
///
///   sweep: {train.lr: [1.0e-3, 3.0e-3], seed: [0, 1, 2], zip: [{model.heads: 1, model.init_std: 0.01}, {model.heads: 5, model.init_std: 0.1}]}
std::vector<Axis> axes_of_block(ConfigSource& source, const config_detail::Node& block);

/// The axis that an argument `key=a,b`, `key=range(0,4)` or `key=logspace(1e-4,1e-1,7)` gives; none where it is one value. Throws ConfigError.
/// range(n), range(begin,end) and range(begin,end,step) are those of Python, of integers; logspace(low,high,n) has both ends, in 6 significant
/// digits.
std::optional<Axis> axis_of_argument(const std::string& argument);

/// Pairs axes as `--zip key,key` asks: point i of one with point i of the other, in the place of the first. Throws ConfigError where a key is no
/// axis or their lengths differ.
void zip_axes(std::vector<Axis>& axes, const std::string& keys);

}  // namespace mnemo
