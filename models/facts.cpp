#include "models/facts.h"

#include <fmt/format.h>

namespace mnemo {

std::int64_t ModelFacts::num_parameters() const {
  std::int64_t total = 0;
  for (const auto& spec : parameters) total += spec.size();
  return total;
}

std::string ModelFacts::description() const { return fmt::format("{}: {}, {} parameters", kind, text, num_parameters()); }

std::string too_many_parameters(double parameters) {
  return parameters > 1e11 ? fmt::format("the model would have {:.1e} parameters; the limit is 1e11", parameters) : std::string();
}

}  // namespace mnemo
