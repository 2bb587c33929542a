#include "experiments/run/trainer.h"

#include "core/cell_batch.h"
#include "core/step_end.h"

#include <torch/torch.h>

#include <algorithm>

namespace mnemo {

Trainer::Trainer(Model& model, Adam& adam, std::vector<TrainingData> replicas, Sharing sharing)
    : model_(model), adam_(adam), replicas_(std::move(replicas)), sharing_(sharing) {
  const auto& flat = model.parameters.flat_RP();
  const auto options = torch::TensorOptions().device(flat.device());
  const auto R = std::ssize(replicas_);
  active_.assign(replicas_.size(), true);
  everybody_R_ = torch::ones({R}, options.dtype(torch::kUInt8));
  active_R_ = everybody_R_.clone();
  finite_R_ = everybody_R_.clone();
  updates_R_ = everybody_R_.clone();
  finite_steps_R_ = torch::zeros({R}, options.dtype(torch::kInt64));
  loss_sum_R_ = torch::zeros({R}, options.dtype(torch::kFloat64));
  accuracy_sum_R_ = torch::zeros_like(loss_sum_R_);
  step_1_ = torch::zeros({1}, options.dtype(torch::kInt64));
  if (!flat.is_cpu()) {
    const auto bytes = flat.scalar_type() == torch::kFloat64 ? step_end_work(adam.buffers<double>()) : step_end_work(adam.buffers<float>());
    work_ = torch::empty({static_cast<std::int64_t>(bytes)}, options.dtype(torch::kUInt8));
  }
  for (std::int64_t r = 0; r < R; ++r) {
    if (const auto* table = replicas_[static_cast<std::size_t>(r)].table) begin_phase(r, *table);
  }
}

void Trainer::begin_phase(std::int64_t replica, const SequenceTable& table, bool clear_memory) {
  auto& data = replicas_[static_cast<std::size_t>(replica)];
  data.table = &table;
  ++data.phase;
  if (auto* memory = model_.memory()) memory->begin_phase(replica, data.phase, table, clear_memory || data.phase == 0);
  const auto& flat = model_.parameters.flat_RP();
  const auto batch = data.draws.batch_size();
  if (!on_gpu_ && !flat.is_cpu() && model_.can_be_recorded() && sharing_ == Sharing::prefixes && batch <= kMaxDeviceBatch) {
    const DeviceBatchShape shape{static_cast<int>(replicas_.size()), static_cast<int>(batch), static_cast<int>(table.length()),
                                 static_cast<int>(model_.facts.first_predicted_bit)};
    on_gpu_.emplace(OnGpu{DeviceBatch(shape, step_1_, flat.scalar_type())});
    for (std::int64_t r = 0; r < std::ssize(replicas_); ++r) on_gpu_->batch.set_draws(r, replicas_[static_cast<std::size_t>(r)].draws);
  }
  if (on_gpu_) on_gpu_->batch.set_table(replica, table);
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

const Losses& Trainer::step(std::int64_t step) {
  if (next_step_ != step) step_1_.fill_(step);
  next_step_ = step + 1;
  drawn_.resize(replicas_.size());
  for (std::size_t r = 0; r < replicas_.size(); ++r) drawn_[r] = active_[r] ? replicas_[r].draws.ranks(step) : std::span<const std::int32_t>();
  if (on_gpu_) {
    step_on_gpu();
  } else {
    losses_ = model_.gradient(cells_of_drawn());
    finish();
  }
  if (auto* memory = model_.memory()) {
    for (std::size_t r = 0; r < replicas_.size(); ++r) {
      if (active_[r]) memory->observe(static_cast<std::int64_t>(r), drawn_[r]);
    }
  }
  return losses_;
}

CellBatch Trainer::cells_of_drawn() {
  const auto some = static_cast<std::size_t>(std::ranges::find(active_, true) - active_.begin());
  const auto first = model_.facts.first_predicted_bit;
  std::vector<ReplicaCells> replica_cells;
  cells_.resize(replicas_.size());
  for (std::size_t r = 0; r < replicas_.size(); ++r) {  // an inactive replica has no cells, and perhaps no table yet
    const auto& table = *replicas_[active_[r] ? r : some].table;
    cells_[r] = active_[r] ? cells_of_batch(table, drawn_[r], sharing_, first) : cells_of_rows(table, {}, {}, sharing_, first);
    replica_cells.push_back({&cells_[r], &table});
  }
  const auto& flat = model_.parameters.flat_RP();
  return CellBatch(std::move(replica_cells), flat.scalar_type(), flat.device());
}

void Trainer::step_on_gpu() {
  auto& [batch, tried, record, refusal] = *on_gpu_;
  const c10::DeviceGuard guard(step_1_.device());
  auto* memory = model_.memory();
  if (memory != nullptr && memory->upload(batch)) {
    record.reset();
    tried = false;
  }
  adam_.refresh_frozen();
  if (record) return record->replay();
  const auto work = [&] {
    batch.make(active_R_);
    losses_ = model_.gradient(CellBatch(batch));
    finish();
    if (memory != nullptr) memory->observe_on_gpu(batch, active_R_);
  };
  if (tried && refusal.empty()) {
    try {
      record = record_gpu_graph(work);
      return;
    } catch (const c10::Error& error) {  // nothing was carried out; a fault of the work itself shows again
      refusal = error.what_without_backtrace();
    }
  }
  work();
  tried = true;
}

void Trainer::finish() {
  const auto learns = losses_.learns_R.defined() ? losses_.learns_R : learns_R();
  model_.parameters.flat_RP().scalar_type() == torch::kFloat64 ? finish_typed<double>(learns) : finish_typed<float>(learns);
}

template <class Real>
void Trainer::finish_typed(const torch::Tensor& learns_R) {
  const StepEnd<Real> end{adam_.buffers<Real>(),
                          losses_.loss_R.const_data_ptr<double>(),
                          losses_.accuracy_R.const_data_ptr<double>(),
                          active_R_.const_data_ptr<std::uint8_t>(),
                          learns_R.const_data_ptr<std::uint8_t>(),
                          finite_R_.data_ptr<std::uint8_t>(),
                          finite_steps_R_.data_ptr<std::int64_t>(),
                          loss_sum_R_.data_ptr<double>(),
                          accuracy_sum_R_.data_ptr<double>(),
                          adam_.steps_RT().data_ptr<std::int64_t>(),
                          updates_R_.data_ptr<std::uint8_t>(),
                          step_1_.data_ptr<std::int64_t>(),
                          work_.defined() ? work_.data_ptr<std::uint8_t>() : nullptr};
  const auto device = finite_R_.device();
  if (device.is_cpu()) return step_end_cpu(end);
  const c10::DeviceGuard guard(device);  // a launch goes to the current device
  step_end_cuda(end, gpu_stream(device.index()));
}

torch::Tensor Trainer::learns_R() const {
  auto* memory = model_.memory();
  std::vector<std::uint8_t> learns;
  for (std::int64_t r = 0; r < std::ssize(replicas_); ++r) learns.push_back(memory == nullptr || !memory->empty(r));
  if (std::ranges::find(learns, 0) == learns.end()) return everybody_R_;
  return torch::tensor(torch::ArrayRef<std::uint8_t>(learns), torch::kUInt8).to(finite_R_.device());
}

}  // namespace mnemo
