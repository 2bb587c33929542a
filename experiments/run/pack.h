#pragma once

#include "core/adam.h"
#include "core/device.h"
#include "core/error.h"
#include "experiments/config/config.h"
#include "experiments/directory/tensors.h"
#include "experiments/run/data.h"
#include "experiments/run/trainer.h"

#include <exception>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace mnemo {

/// R runs of one shape and one schedule that step together: their model, optimizer and trainer. A run reads and writes its member through
/// model(), or by its row.
class Pack {
 public:
  /// Throws Error{config} for runs that may not share a pack, naming the setting; Error{resources} if memory or the device is missing.
  explicit Pack(std::span<const RunConfig> members);

  std::int64_t size() const { return std::ssize(laws_); }
  const DeviceChoice& device() const { return device_; }
  torch::Dtype dtype() const { return dtype_; }
  /// The law by which a member draws ranks.
  const RankLaw& law(std::int64_t row) const { return laws_[static_cast<std::size_t>(row)]; }

  /// The member's weights and memory, as a model of one replica.
  Model& model(std::int64_t row) { return members_.empty() ? *model_ : *members_[static_cast<std::size_t>(row)]; }
  void set_frozen(std::int64_t row, std::size_t parameter, bool frozen) { model_->parameters.set_frozen(row, parameter, frozen); }
  void reset_optimizer(std::int64_t row, const std::vector<std::size_t>& parameters) { adam_->reset(row, parameters); }

  /// Begins the next phase of a member, or phase 0 after restart(). The table must outlive the pack.
  void begin_phase(std::int64_t row, const SequenceTable& table, bool clear_memory = true) { trainer_->begin_phase(row, table, clear_memory); }
  /// Forgets a member's phases, and whether it was finite.
  void restart(std::int64_t row) { trainer_->restart(row); }
  /// An inactive member is computed with the others, but nothing of it changes.
  void set_active(std::int64_t row, bool active) { trainer_->set_active(row, active); }

  /// One update of the active members: number `step`, counting from 0.
  void step(std::int64_t step) { trainer_->step(step); }
  /// The ranks that a member drew in the last update.
  std::span<const std::int32_t> drawn(std::int64_t row) const { return trainer_->drawn(static_cast<std::size_t>(row)); }
  /// Whether every loss and gradient of a member was finite so far. Waits for the device.
  bool finite(std::int64_t row) const { return trainer_->finite_R()[row].item<std::uint8_t>() != 0; }
  /// Updates that a member made before the first that was not finite. Waits for the device.
  std::int64_t finite_steps(std::int64_t row) const { return trainer_->finite_steps_R()[row].item<std::int64_t>(); }

  std::string why_not_recorded() const { return trainer_->why_not_recorded(); }

  /// Sums of loss and accuracy since a member's last line of metrics, float64 on the device, so that adding waits for nothing.
  torch::Tensor loss_sum(std::int64_t row) const { return trainer_->loss_sum_R()[row]; }
  torch::Tensor accuracy_sum(std::int64_t row) const { return trainer_->accuracy_sum_R()[row]; }

  /// The state of a member for a checkpoint, phases and step apart. Most tensors are views.
  NamedTensors state(std::int64_t row);
  /// Restores state() from a checkpoint, after the same phases have begun. Throws Error{data} if it does not fit.
  void restore(std::int64_t row, const Safetensors& checkpoint);

 private:
  DeviceChoice device_;
  torch::Dtype dtype_;
  std::vector<RankLaw> laws_;
  std::unique_ptr<Model> model_;
  std::vector<std::unique_ptr<Model>> members_;  // none in a pack of one, whose member is the model itself
  std::unique_ptr<Adam> adam_;
  std::unique_ptr<Trainer> trainer_;
};

/// The first setting in which two runs differ that members of a pack must share: "train.steps: 100, 200"; empty if there is none.
std::string difference_of_members(const RunConfig& a, const RunConfig& b);
/// A digest of all that they must share.
std::string kind_of_pack(const RunConfig& config);

/// How a member ended: the code of run.end(), or what it threw.
struct MemberOutcome {
  ExitCode code = ExitCode::done;
  std::exception_ptr error;
};

class Run;
/// The only training loop: trains the opened members of a pack to their ends. A member that is done, stays at chance, diverges or fails leaves alone.
/// One that resumed at a later step waits for the others. A null entry: no run of this row takes part.
std::vector<MemberOutcome> train(Pack& pack, std::span<const std::unique_ptr<Run>> runs);

}  // namespace mnemo
