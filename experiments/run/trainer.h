#pragma once

#include "core/adam.h"
#include "core/batches.h"
#include "core/device_batch.h"
#include "core/gpu.h"
#include "core/zipf.h"
#include "models/model.h"

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace mnemo {

/// What one replica learns from: its sequences, and its draws.
struct TrainingData {
  const SequenceTable* table;  ///< null until begin_phase(), which must come before the first step
  DrawStream draws;
  std::int64_t phase = -1;  ///< of the table
};

/// The training step of R replicas, and the only one: draws -> cells -> gradient -> Adam -> the model's memory, if it has one. On a GPU the first
/// step is made operation by operation; the second is recorded, and those after it are the record, replayed. Freezing, phases, activity and the end
/// of a replica are data on the device, which a record reads anew.
class Trainer {
 public:
  Trainer(Model& model, Adam& adam, std::vector<TrainingData> replicas, Sharing sharing = Sharing::prefixes);

  /// Update number `step` (0-based). A replica whose loss or gradient is not finite keeps its parameters, from then on. The next step writes over the
  /// losses.
  const Losses& step(std::int64_t step);

  /// The ranks that a replica drew in the last update.
  std::span<const std::int32_t> drawn(std::size_t replica) const { return drawn_[replica]; }
  /// Begins the next phase of a replica.
  void begin_phase(std::int64_t replica, const SequenceTable& table, bool clear_memory = true);
  /// Lets a replica begin again, with phase 0.
  void restart(std::int64_t replica);
  /// An inactive replica does not change.
  void set_active(std::int64_t replica, bool active);

  /// uint8 [R] on the model's device: 0 from the first non-finite step on. Reading it waits for the device.
  const torch::Tensor& finite_R() const { return finite_R_; }
  /// int64 [R]: updates done before the first non-finite one.
  const torch::Tensor& finite_steps_R() const { return finite_steps_R_; }
  /// Sums of loss and accuracy over the steps of a replica since somebody set them to 0, float64 [R].
  const torch::Tensor& loss_sum_R() const { return loss_sum_R_; }
  const torch::Tensor& accuracy_sum_R() const { return accuracy_sum_R_; }
  /// Why a GPU would not record the step, so that it is made operation by operation: slower, the same numbers. Empty: nothing is in the way.
  std::string why_not_recorded() const { return on_gpu_ ? on_gpu_->refusal : ""; }

 private:
  /// Steps that need nothing of the host.
  struct OnGpu {
    DeviceBatch batch;
    bool tried = false;  // a step was made: what later ones reuse is there
    std::unique_ptr<GpuGraph> record{};
    std::string refusal{};
  };

  CellBatch cells_of_drawn();
  void step_on_gpu();
  /// Judges, counts and sums, and updates the parameters.
  void finish();
  template <class Real>
  void finish_typed(const torch::Tensor& learns_R);
  torch::Tensor learns_R() const;

  Model& model_;
  Adam& adam_;
  std::vector<TrainingData> replicas_;
  Sharing sharing_;
  std::vector<bool> active_;
  std::vector<std::span<const std::int32_t>> drawn_;  // in the last update
  std::vector<Cells> cells_;                          // of it
  std::int64_t next_step_ = 0;                        // what step_1_ holds
  Losses losses_;
  // on the device
  torch::Tensor active_R_, finite_R_, finite_steps_R_, loss_sum_R_, accuracy_sum_R_, everybody_R_, updates_R_, step_1_, work_;
  std::optional<OnGpu> on_gpu_;
};

}  // namespace mnemo
