#include "experiments/run/trainer.h"

#include "core/rows.h"

#include <torch/torch.h>

#include <algorithm>

namespace mnemo {

Trainer::Trainer(Model& model, Adam& adam, std::vector<TrainingData> replicas, Sharing sharing)
    : model_(model), adam_(adam), replicas_(std::move(replicas)), sharing_(sharing) {
  const auto options = torch::TensorOptions().device(model.parameters.flat_RP().device());
  const auto num_replicas = static_cast<std::int64_t>(replicas_.size());
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
  active_R_[replica] = 1;
  finite_R_[replica] = 1;
  finite_steps_R_[replica] = 0;
}

Losses Trainer::step(std::int64_t step) {
  std::vector<Cells> cells;
  std::vector<ReplicaCells> replica_cells;
  drawn_.clear();
  for (auto& replica : replicas_) {
    drawn_.push_back(replica.draws.ranks(step));
    cells.push_back(cells_of_batch(*replica.table, drawn_.back(), sharing_, model_.facts.first_position));
  }
  for (std::size_t r = 0; r < replicas_.size(); ++r) replica_cells.push_back({&cells[r], replicas_[r].table});
  const auto& flat = model_.parameters.flat_RP();

  const auto losses = model_.gradient(Rows(std::move(replica_cells), flat.scalar_type(), flat.device()));
  finite_R_.mul_(finite_replicas(model_.parameters.gradient_RP(), losses.loss_R));
  finite_steps_R_.add_(finite_R_);
  adam_.step(updates_R());
  if (auto* memory = model_.memory()) {
    for (std::size_t r = 0; r < replicas_.size(); ++r) memory->observe(static_cast<std::int64_t>(r), drawn_[r]);
  }
  return losses;
}

torch::Tensor Trainer::updates_R() const {
  auto* memory = model_.memory();
  std::vector<std::uint8_t> learns;
  for (std::size_t r = 0; r < replicas_.size(); ++r) learns.push_back(memory == nullptr || !memory->empty(static_cast<std::int64_t>(r)));
  if (std::find(learns.begin(), learns.end(), 0) == learns.end()) return finite_R_ * active_R_;
  return finite_R_ * active_R_ * torch::tensor(torch::ArrayRef<std::uint8_t>(learns), torch::kUInt8).to(finite_R_.device());
}

}  // namespace mnemo
