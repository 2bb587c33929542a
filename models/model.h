#pragma once

#include "core/parameters.h"
#include "core/cell_batch.h"
#include "models/facts.h"

#include <torch/types.h>

#include <limits>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace mnemo {

/// What a step reports, float64 [R] each, on the model's device.
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

/// Which of its exact forms, equal up to rounding, a model takes: for measurements, and for tests that hold them equal.
struct Forms {
  bool kernels = true;                ///< its own on the CPU, where it has any; else compositions of LibTorch, as on other devices
  bool skip_dead_units = true;        ///< kernels leave out hidden units that are 0
  std::int64_t max_scores = 1 << 24;  ///< that compositions over a memory hold at once
};

/// What a model has stored besides its parameters, by replica.
class Memory {
 public:
  virtual ~Memory() = default;

  /// Phase 0, 1, ... of a replica begins: its sequences are ranks of `table` from now on, which must outlive what the memory holds of it.
  virtual void begin_phase(std::int64_t replica, std::int64_t phase, const SequenceTable& table, bool clear) = 0;
  /// Nothing is stored: there is nothing to learn from yet, and no update of the weights.
  virtual bool empty(std::int64_t replica) const = 0;
  /// After each update: the ranks that the replica has drawn.
  virtual void observe(std::int64_t replica, std::span<const std::int32_t> drawn) = 0;
  /// What decides the rest of a run, int64 of a fixed shape; to be set after the same phases have begun.
  virtual torch::Tensor state(std::int64_t replica) const = 0;
  virtual void set_state(std::int64_t replica, const torch::Tensor& state) = 0;
  /// The stored sequences, uint8 [m, L], the oldest first: what weights are written with, and read back with in another program.
  virtual torch::Tensor bits(std::int64_t replica) const = 0;
  virtual void set_bits(std::int64_t replica, const torch::Tensor& bits_mL) = 0;
};

/// A sequence model of R replicas: parameters and one function of bits. It knows nothing of optimizers, runs or files.
class Model {
 public:
  Model(ModelFacts f, Parameters p) : facts(std::move(f)), parameters(std::move(p)) {}
  virtual ~Model() = default;

  /// One replica as a model of its own, which views the same weights and shares the same memory: what is read or written of a replica goes
  /// through it. Freezing belongs to the whole.
  virtual std::unique_ptr<Model> replica(std::int64_t r) const = 0;

  /// Logit of P(next bit = 1) for every cell, [R, N]. Differentiable: this plain form is the specification of the model.
  virtual torch::Tensor logits(const CellBatch& rows) = 0;

  /// The same logits for evaluation, without a graph. Here through logits(); a model may override it with a faster form.
  virtual torch::Tensor predict(const CellBatch& rows);

  /// Numbers that predict() holds for each (row, position) at once, about: what bounds the rows of a block of evaluation.
  virtual std::int64_t activation_width(std::int64_t length) const;

  /// How gradient() and predict() compute, for the log.
  virtual std::string form() const { return "plain composition"; }

  /// Zeroes the flat gradient and fills it with that of the weighted loss. Here plain_gradient(); a model may override it with a faster form of
  /// the same numbers.
  virtual Losses gradient(const CellBatch& rows) { return plain_gradient(rows); }
  /// By autograd through logits().
  Losses plain_gradient(const CellBatch& rows);

  /// The losses whose mean gradient() descends, one by one, for evaluation. Here through predict(). Replicas must have as many rows.
  virtual PositionScores score(const CellBatch& rows);

  /// A single loss above this counts as this, and has no slope.
  virtual double max_loss() const { return std::numeric_limits<double>::infinity(); }
  virtual Measures measures() const { return {}; }
  /// Null: the model has none.
  virtual Memory* memory() { return nullptr; }

  // Of the plain form, where the facts say that there are any. They throw std::logic_error where there are none.

  /// Hidden layers for every cell, [R, N, width] each, the input of the MLP first.
  virtual std::vector<torch::Tensor> hidden_layers(const CellBatch& rows) const;
  /// What each position pays attention to, [R, U, H, L, L] for bits uint8 [R, U, L] on the parameters' device. Rows sum to 1, later keys get 0.
  virtual torch::Tensor attention_maps(const torch::Tensor& bits_RUL) const;

  const ModelFacts facts;
  Parameters parameters;
  Forms forms;
};

}  // namespace mnemo
