#pragma once

#include "core/parameters.h"
#include "core/rows.h"

#include <torch/types.h>

#include <string>

namespace mnemo {

/// What a step reports, [R] each, on the model's device.
struct Losses {
  torch::Tensor loss_R;      ///< mean over the batch of the mean over predictions, nats
  torch::Tensor accuracy_R;  ///< share of right predictions, ties half
};

/// A sequence model of R replicas: parameters and one function of bits. It knows nothing of optimizers, runs or files.
class Model {
 public:
  explicit Model(Parameters p) : parameters(std::move(p)) {}
  virtual ~Model() = default;

  /// Logit of P(next bit = 1) for every cell, [R, N]. Differentiable: this plain form is the specification of the model.
  virtual torch::Tensor logits(const Rows& rows) = 0;

  /// The same logits for evaluation, without a graph. Here through logits(); a model may override it with a faster form.
  virtual torch::Tensor predict(const Rows& rows);

  /// Numbers that predict() holds for each (row, position) at once, about: what bounds the rows of a block of evaluation.
  virtual std::int64_t activation_width(std::int64_t length) const;

  /// How gradient() and predict() compute, for the log.
  virtual std::string form() const { return "plain composition"; }

  /// Zeroes the flat gradient and fills it with that of the weighted loss. Here by autograd through logits(); a model may
  /// override it with a faster form of the same numbers.
  virtual Losses gradient(const Rows& rows);

  Parameters parameters;
};

}  // namespace mnemo
