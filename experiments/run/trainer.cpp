#include "experiments/run/trainer.h"

#include "core/cell_batch.h"

#include <torch/torch.h>

#include <algorithm>

namespace mnemo {

Trainer::Trainer(Model& model, Adam& adam, std::vector<TrainingData> replicas, Sharing sharing)
    : model_(model), adam_(adam), replicas_(std::move(replicas)), sharing_(sharing) {
  const auto options = torch::TensorOptions().device(model.parameters.flat_RP().device());
  const auto num_replicas = static_cast<std::int64_t>(replicas_.size());
  active_.assign(replicas_.size(), true);
  active_R_ = torch::ones({num_replicas}, options.dtype(torch::kUInt8));
  finite_R_ = active_R_.clone();
  finite_steps_R_ = torch::zeros({num_replicas}, options.dtype(torch::kInt64));
  for (std::int64_t r = 0; r < num_replicas; ++r) {
    if (const auto* table = replicas_[static_cast<std::size_t>(r)].table) begin_phase(r, *table);
  }
}

void Trainer::begin_phase(std::int64_t replica, const SequenceTable& table, bool clear_memory) {
  auto& data = replicas_[static_cast<std::size_t>(replica)];
  data.table = &table;
  ++data.phase;
  if (auto* memory = model_.memory()) memory->begin_phase(replica, data.phase, table, clear_memory || data.phase == 0);
}

void Trainer::restart(std::int64_t replica) {
  replicas_[static_cast<std::size_t>(replica)].phase = -1;
  finite_R_[replica] = 1;
  finite_steps_R_[replica] = 0;
}

void Trainer::set_active(std::int64_t replica, bool active) {
  if (active_[static_cast<std::size_t>(replica)] == active) return;
  active_[static_cast<std::size_t>(replica)] = active;
  active_R_[replica] = static_cast<int>(active);
}

bool Trainer::all_active() const { return std::ranges::find(active_, false) == active_.end(); }

Losses Trainer::step(std::int64_t step) {
  std::vector<Cells> cells;
  std::vector<ReplicaCells> replica_cells;
  const SequenceTable* some_table = nullptr;
  for (std::size_t r = 0; r < replicas_.size(); ++r) {
    if (active_[r]) some_table = replicas_[r].table;
  }
  drawn_.resize(replicas_.size());
  for (std::size_t r = 0; r < replicas_.size(); ++r) {  // an inactive replica has no cells, and perhaps no table yet
    auto& [table, draws, phase] = replicas_[r];
    const auto first = model_.facts.first_predicted_bit;
    drawn_[r] = active_[r] ? draws.ranks(step) : std::span<const std::int32_t>();
    cells.push_back(active_[r] ? cells_of_batch(*table, drawn_[r], sharing_, first) : cells_of_rows(*some_table, {}, {}, sharing_, first));
  }
  for (std::size_t r = 0; r < replicas_.size(); ++r) replica_cells.push_back({&cells[r], active_[r] ? replicas_[r].table : some_table});
  const auto& flat = model_.parameters.flat_RP();

  auto losses = model_.gradient(CellBatch(std::move(replica_cells), flat.scalar_type(), flat.device()));
  const auto finite_R = finite_replicas(model_.parameters.gradient_RP(), losses.loss_R);
  if (all_active()) {
    finite_R_.mul_(finite_R);
    finite_steps_R_.add_(finite_R_);
  } else {
    finite_R_.mul_(torch::maximum(finite_R, 1 - active_R_));
    finite_steps_R_.add_(finite_R_ * active_R_);
    losses.loss_R = torch::where(active_R_ != 0, losses.loss_R, torch::zeros_like(losses.loss_R));
    losses.accuracy_R = torch::where(active_R_ != 0, losses.accuracy_R, torch::zeros_like(losses.accuracy_R));
  }
  adam_.step(updates_R());
  if (auto* memory = model_.memory()) {
    for (std::size_t r = 0; r < replicas_.size(); ++r) {
      if (active_[r]) memory->observe(static_cast<std::int64_t>(r), drawn_[r]);
    }
  }
  return losses;
}

torch::Tensor Trainer::updates_R() const {
  auto* memory = model_.memory();
  std::vector<std::uint8_t> learns;
  for (std::size_t r = 0; r < replicas_.size(); ++r) learns.push_back(memory == nullptr || !memory->empty(static_cast<std::int64_t>(r)));
  if (std::find(learns.begin(), learns.end(), 0) == learns.end()) return all_active() ? finite_R_ : finite_R_ * active_R_;
  return finite_R_ * active_R_ * torch::tensor(torch::ArrayRef<std::uint8_t>(learns), torch::kUInt8).to(finite_R_.device());
}

}  // namespace mnemo
