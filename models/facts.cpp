#include "models/facts.h"

#include <fmt/format.h>

namespace mnemo {

std::int64_t ModelFacts::num_parameters() const {
  std::int64_t total = 0;
  for (const auto& spec : parameters) total += spec.size();
  return total;
}

std::string ModelFacts::description() const { return fmt::format("{}: {}, {} parameters", kind, text, num_parameters()); }

}  // namespace mnemo
