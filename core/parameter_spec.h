#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace mnemo {

/// One parameter tensor of a model, without the replica dimension.
struct ParameterSpec {
  enum class Init { normal, zeros, ones };

  std::string name;                 ///< its PyTorch name, "c_attn.weight"
  std::string group;                ///< its group, for events: "c_attn"
  std::vector<std::int64_t> shape;  ///< PyTorch layout
  Init init = Init::normal;
  double init_std = 0.02;  ///< of Init::normal

  std::int64_t size() const;
};

/// Indices of the parameters that `pattern` names: a group, a name, or a name with `*` for any characters. Empty when none.
std::vector<std::size_t> matching_parameters(const std::vector<ParameterSpec>& specs, std::string_view pattern);
/// Those that any of the patterns names, in the order of `specs`.
std::vector<std::size_t> matching_parameters(const std::vector<ParameterSpec>& specs, const std::vector<std::string>& patterns);
/// Group names in order of first use.
std::vector<std::string> parameter_groups(const std::vector<ParameterSpec>& specs);

}  // namespace mnemo
