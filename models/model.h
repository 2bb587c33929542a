#pragma once

#include "core/parameters.h"
#include "core/rows.h"

#include <torch/types.h>

#include <limits>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace mnemo {

using NamedTensors = std::vector<std::pair<std::string, torch::Tensor>>;

/// What a step reports, [R] each, on the model's device.
struct Losses {
  torch::Tensor loss_R;      ///< mean over the batch of the mean over predictions, nats
  torch::Tensor accuracy_R;  ///< share of right predictions, ties half
};

/// Of every prediction of every row, [R, U, P]: nats; share right.
struct PositionScores {
  torch::Tensor loss_RUP, accuracy_RUP;
};

/// What a model says of its weights: numbers by name, and float32 vectors of one length.
struct Measures {
  std::vector<std::pair<std::string, double>> scalars;
  std::vector<std::pair<std::string, std::vector<float>>> vectors;
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

  /// The losses whose mean gradient() descends, one by one, for evaluation. Here through predict(). Replicas must have as many rows.
  virtual PositionScores score(const Rows& rows);

  /// Position c predicts bit c + first_position() of a row (0-based) from the bits before it.
  virtual std::int64_t first_position() const { return 1; }
  /// A single loss above this counts as this, and has no slope.
  virtual double max_loss() const { return std::numeric_limits<double>::infinity(); }
  virtual Measures measures() const { return {}; }

  // What a model with a memory does; the others have none.

  /// Phase 0, 1, ... of replica r begins: its sequences are ranks of `table` from now on, which must outlive what the memory holds of it.
  virtual void begin_phase(std::int64_t /*replica*/, std::int64_t /*phase*/, const SequenceTable& /*table*/, bool /*clear_memory*/) {}
  /// False: nothing to learn from yet, and no update of the weights in this step.
  virtual bool learns() const { return true; }
  /// After each update: the ranks that replica r has drawn.
  virtual void observe(std::int64_t /*replica*/, std::span<const std::int32_t> /*drawn*/) {}
  /// What besides the parameters decides the rest of a run, in fixed types and shapes; set_state() after the same phases have begun.
  virtual NamedTensors state() const { return {}; }
  virtual void set_state(const NamedTensors& /*state*/) {}
  /// What the weights of replica 0 are written with, and read back with in another program.
  virtual NamedTensors memory() const { return {}; }
  virtual void set_memory(const torch::Tensor& /*bits_mL*/) {}

  Parameters parameters;
};

}  // namespace mnemo
