#pragma once

#include "core/parameter_spec.h"

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace mnemo {

/// What a model learns to predict: each bit from those before it, or which of the stored sequences a prefix belongs to.
enum class Task { bits, sequences };

/// What is known of a model from its configuration and the length of a sequence. Nobody else asks which kind a model is.
struct ModelFacts {
  std::string_view kind;
  std::string text;  ///< "30 heads, eta 10, a queue of 3000"
  std::vector<ParameterSpec> parameters;
  std::int64_t first_predicted_bit = 1;  ///< position c predicts bit c + first_predicted_bit (0-based) from the bits before it
  Task task = Task::bits;
  std::int64_t attention_layers = 0, attention_heads = 0;  ///< 0: it has no attention maps
  bool attention_by_layer = false;                         ///< measures of attention have an axis of layers, the first
  std::vector<std::int64_t> hidden_widths;                 ///< of the layers that Model::hidden_layers() returns; empty: none
  bool has_memory = false;                                 ///< it stores what it has seen; a switch may clear that

  std::int64_t num_parameters() const;
  /// "dam: 30 heads, eta 10, a queue of 3000, 76,500 parameters".
  std::string description() const;
};

/// What is wrong with a model of so many parameters, or empty. In floating point, since legal sizes can overflow an integer.
std::string too_many_parameters(double parameters);

}  // namespace mnemo
