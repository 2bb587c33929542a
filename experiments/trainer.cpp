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
}

Losses Trainer::step(std::int64_t step) {
  std::vector<Cells> cells;
  std::vector<ReplicaCells> replica_cells;
  for (auto& replica : replicas_) cells.push_back(cells_of_batch(*replica.table, replica.draws.ranks(step), sharing_));
  for (std::size_t r = 0; r < replicas_.size(); ++r) replica_cells.push_back({&cells[r], replicas_[r].table});
  const auto& flat = model_.parameters.flat_RP();

  const auto losses = model_.gradient(Rows(std::move(replica_cells), flat.scalar_type(), flat.device()));
  finite_R_.mul_(finite_replicas(model_.parameters.gradient_RP(), losses.loss_R));
  finite_steps_R_.add_(finite_R_);
  adam_.step(finite_R_);
  return losses;
}

}  // namespace mnemo
