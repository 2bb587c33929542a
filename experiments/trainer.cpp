#include "experiments/trainer.h"

#include "core/rows.h"

#include <torch/torch.h>

namespace mnemo {

Trainer::Trainer(Model& model, Adam& adam, std::vector<TrainingData> replicas, Sharing sharing)
    : model_(model), adam_(adam), replicas_(std::move(replicas)), sharing_(sharing) {
  const auto options = torch::TensorOptions().device(model.parameters.flat_RP().device());
  const auto num_replicas = static_cast<std::int64_t>(replicas_.size());
  finite_R_ = torch::ones({num_replicas}, options.dtype(torch::kUInt8));
  finite_steps_R_ = torch::zeros({num_replicas}, options.dtype(torch::kInt64));
  for (std::size_t r = 0; r < replicas_.size(); ++r) model.begin_phase(static_cast<std::int64_t>(r), 0, *replicas_[r].table, /*clear_memory=*/true);
}

void Trainer::set_table(std::size_t replica, const SequenceTable* table, bool clear_memory) {
  auto& data = replicas_[replica];
  data.table = table;
  model_.begin_phase(static_cast<std::int64_t>(replica), ++data.phase, *table, clear_memory);
}

Losses Trainer::step(std::int64_t step) {
  std::vector<Cells> cells;
  std::vector<ReplicaCells> replica_cells;
  for (auto& replica : replicas_) {
    cells.push_back(cells_of_batch(*replica.table, replica.draws.ranks(step), sharing_, model_.first_position()));
  }
  for (std::size_t r = 0; r < replicas_.size(); ++r) replica_cells.push_back({&cells[r], replicas_[r].table});
  const auto& flat = model_.parameters.flat_RP();

  const auto losses = model_.gradient(Rows(std::move(replica_cells), flat.scalar_type(), flat.device()));
  finite_R_.mul_(finite_replicas(model_.parameters.gradient_RP(), losses.loss_R));
  finite_steps_R_.add_(finite_R_);
  if (model_.learns()) adam_.step(finite_R_);
  for (std::size_t r = 0; r < replicas_.size(); ++r) model_.observe(static_cast<std::int64_t>(r), replicas_[r].draws.ranks(step));
  return losses;
}

}  // namespace mnemo
