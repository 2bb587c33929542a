#pragma once

#include "core/parameters.h"
#include "core/cell_batch.h"
#include "models/facts.h"

#include <torch/types.h>

#include <limits>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace mnemo {

/// What a step reports, float64 [R] each, on the model's device.
struct Losses {
  torch::Tensor loss_R;      ///< mean over the batch of the mean over predictions, nats
  torch::Tensor accuracy_R;  ///< share of right predictions, ties half
  torch::Tensor learns_R{};  ///< uint8 [R]: 0 where there is nothing to learn from, and no update; undefined: 1, but for an empty memory
};

/// Loss in nats and share right of every prediction of every row, [R, U, P].
struct PositionScores {
  torch::Tensor loss_RUP, accuracy_RUP;
};

/// Measures that a model takes of its weights: numbers by name, and float32 vectors of one length.
struct Measures {
  std::vector<std::pair<std::string, double>> scalars;
  std::vector<std::pair<std::string, std::vector<float>>> vectors;
};

/// Which of a model's exact forms, equal up to rounding, compute. For benchmarks, and for tests that hold the forms equal.
struct Forms {
  bool kernels = true;                ///< the model's own on the CPU, if any; else compositions of LibTorch, as on other devices
  bool tf32 = false;                  ///< kernels on a GPU take products of factors rounded to 10 bits of mantissa
  bool skip_dead_units = true;        ///< kernels leave out hidden units that are 0
  std::int64_t max_scores = 1 << 24;  ///< scores that a composition over a memory holds at once
};

/// What a model has stored besides its parameters, by replica.
class Memory {
 public:
  virtual ~Memory() = default;

  /// Begins phase 0, 1, ... of a replica: from now on ranks refer to `table`, which must outlive what the memory holds of it.
  virtual void begin_phase(std::int64_t replica, std::int64_t phase, const SequenceTable& table, bool clear) = 0;
  /// Whether nothing is stored yet: there is nothing to learn from, and no update of the weights.
  virtual bool empty(std::int64_t replica) const = 0;
  /// Takes the ranks that the replica drew, after each update.
  virtual void observe(std::int64_t replica, std::span<const std::int32_t> drawn) = 0;
  /// What a checkpoint keeps, int64 of a fixed shape. To be restored after the same phases have begun.
  virtual torch::Tensor state(std::int64_t replica) const = 0;
  virtual void set_state(std::int64_t replica, const torch::Tensor& state) = 0;
  /// The stored sequences, uint8 [m, L], the oldest first, as files of weights hold them.
  virtual torch::Tensor bits(std::int64_t replica) const = 0;
  virtual void set_bits(std::int64_t replica, const torch::Tensor& bits_mL) = 0;

  // Of a model whose step can be recorded: a copy on its GPU.

  /// Brings the copy up to date with what was not observed; for a batch that is to be made there. Whether the copy lies elsewhere from now on, so
  /// that a recorded step is no longer right.
  virtual bool upload(const DeviceBatch&) { throw std::logic_error("[memory] is not kept on a GPU"); }
  /// Queues observe() for the copy, of what replicas drew whose entry in `active_R` (uint8) is not 0.
  virtual void observe_on_gpu(const DeviceBatch&, const torch::Tensor& /*active_R*/) { throw std::logic_error("[memory] is not kept on a GPU"); }
};

/// A sequence model of R replicas: parameters and one function of bits. It knows nothing of optimizers, runs or files.
class Model {
 public:
  Model(ModelFacts f, Parameters p) : facts(std::move(f)), parameters(std::move(p)) {}
  virtual ~Model() = default;

  /// One replica as a model of its own, which views the same weights and shares the same memory. A replica is read and written through it, but frozen
  /// through the whole model.
  virtual std::unique_ptr<Model> replica(std::int64_t r) const = 0;

  /// Logit of P(next bit = 1) for every cell, [R, N]. Differentiable: this plain form is the specification of the model.
  virtual torch::Tensor logits(const CellBatch& batch) = 0;

  /// The same logits for evaluation, without a graph. By default through logits(); a model may override it with a faster form.
  virtual torch::Tensor predict(const CellBatch& batch);

  /// About how many numbers predict() holds at once for each (row, position): bounds the rows of a block of evaluation.
  virtual std::int64_t activation_width(std::int64_t length) const;

  /// Whether gradient() takes batches that a GPU made, and neither waits nor asks the host for anything then: a step of it can be recorded.
  virtual bool can_be_recorded() const { return true; }

  /// How gradient() and predict() compute, for the log.
  virtual std::string form() const { return "plain composition"; }

  /// Sets the flat gradient to that of the weighted loss. By default plain_gradient(); a model may override it with a faster form of the same
  /// numbers.
  virtual Losses gradient(const CellBatch& batch) { return plain_gradient(batch); }
  /// By autograd through logits().
  Losses plain_gradient(const CellBatch& batch);

  /// The single losses whose mean gradient() descends, for evaluation. By default through predict(). All replicas must have the same number of rows.
  virtual PositionScores score(const CellBatch& batch);

  /// A single loss above this counts as this, and has no slope.
  virtual double max_loss() const { return std::numeric_limits<double>::infinity(); }
  virtual Measures measures() const { return {}; }
  /// Null: the model has none.
  virtual Memory* memory() { return nullptr; }

  // Of the plain form. Models that have none, as their facts say, throw std::logic_error.

  /// Hidden layers for every cell, [R, N, width] each, in order of depth.
  virtual std::vector<torch::Tensor> hidden_layers(const CellBatch& batch) const;
  /// What each position pays attention to, by layer, [R, U, H, L, L] each for bits uint8 [R, U, L] on the parameters' device. Rows sum to 1, later
  /// keys get 0.
  virtual std::vector<torch::Tensor> attention_maps(const torch::Tensor& bits_RUL) const;

  const ModelFacts facts;
  Parameters parameters;
  Forms forms;

 protected:
  /// Whether the model's own kernels for the CPU are asked for, and the parameters and this processor take them.
  bool kernels_on_cpu() const;
};

}  // namespace mnemo
