#include "core/parameter_spec.h"

#include <algorithm>
#include <set>

namespace mnemo {

std::int64_t ParameterSpec::size() const {
  std::int64_t n = 1;
  for (auto extent : shape) n *= extent;
  return n;
}

namespace {

/// Whether `text` is `pattern` with any characters in place of each `*`.
bool matches(std::string_view text, std::string_view pattern) {
  const auto star = pattern.find('*');
  if (star == std::string_view::npos) return text == pattern;
  if (!text.starts_with(pattern.substr(0, star))) return false;
  const auto rest = pattern.substr(star + 1);
  for (auto from = star; from <= text.size(); ++from) {
    if (matches(text.substr(from), rest)) return true;
  }
  return false;
}

}  // namespace

std::vector<std::size_t> matching_parameters(const std::vector<ParameterSpec>& specs, std::string_view pattern) {
  std::vector<std::size_t> found;
  for (std::size_t i = 0; i < specs.size(); ++i) {
    if (specs[i].group == pattern || matches(specs[i].name, pattern)) found.push_back(i);
  }
  return found;
}

std::vector<std::size_t> matching_parameters(const std::vector<ParameterSpec>& specs, const std::vector<std::string>& patterns) {
  std::set<std::size_t> found;
  for (const auto& pattern : patterns) {
    const auto matching = matching_parameters(specs, pattern);
    found.insert(matching.begin(), matching.end());
  }
  return {found.begin(), found.end()};
}

std::vector<std::string> parameter_groups(const std::vector<ParameterSpec>& specs) {
  std::vector<std::string> groups;
  for (const auto& spec : specs) {
    if (std::find(groups.begin(), groups.end(), spec.group) == groups.end()) groups.push_back(spec.group);
  }
  return groups;
}

}  // namespace mnemo
