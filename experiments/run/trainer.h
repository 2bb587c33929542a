#pragma once

#include "core/adam.h"
#include "core/batches.h"
#include "core/zipf.h"
#include "models/model.h"

#include <span>
#include <vector>

namespace mnemo {

/// What one replica learns from: its sequences, and its draws.
struct TrainingData {
  const SequenceTable* table;  ///< null until begin_phase(), which must come before the first step
  DrawStream draws;
  std::int64_t phase = -1;  ///< of the table
};

/// The training step of R replicas, and the only one: draws -> cells -> gradient -> Adam -> the model's memory, if it has one.
class Trainer {
 public:
  Trainer(Model& model, Adam& adam, std::vector<TrainingData> replicas, Sharing sharing = Sharing::prefixes);

  /// Update number `step` (0-based). A replica whose loss or gradient is not finite keeps its parameters, from then on.
  Losses step(std::int64_t step);

  /// The ranks that a replica drew in the last update.
  std::span<const std::int32_t> drawn(std::size_t replica) const { return drawn_[replica]; }
  /// Begins the next phase of a replica.
  void begin_phase(std::int64_t replica, const SequenceTable& table, bool clear_memory = true);
  /// Lets a replica begin again, with phase 0.
  void restart(std::int64_t replica);
  /// An inactive replica does not change, and its losses are 0.
  void set_active(std::int64_t replica, bool active);

  /// uint8 [R] on the model's device: 0 from the first non-finite step on. Reading it waits for the device.
  const torch::Tensor& finite_R() const { return finite_R_; }
  /// int64 [R]: updates done before the first non-finite one.
  const torch::Tensor& finite_steps_R() const { return finite_steps_R_; }

 private:
  bool all_active() const;
  /// uint8 [R]: replicas that are active, finite, and have something to learn from.
  torch::Tensor updates_R() const;

  Model& model_;
  Adam& adam_;
  std::vector<TrainingData> replicas_;
  Sharing sharing_;
  std::vector<bool> active_;
  std::vector<std::span<const std::int32_t>> drawn_;    // in the last update
  torch::Tensor active_R_, finite_R_, finite_steps_R_;  // active_R_ is active_ on the device
};

}  // namespace mnemo
