#include "models/queue_on_gpu.h"

#include "core/gpu.h"
#include "models/memory_queue.h"

#include <torch/torch.h>

#include <algorithm>

namespace mnemo {

using torch::Tensor;

namespace {

Tensor zeros_on(torch::Device device, torch::Dtype type, std::vector<std::int64_t> sizes) {
  return torch::zeros(sizes, torch::TensorOptions().dtype(type).device(device));
}

std::int32_t* integers(const Tensor& tensor) { return tensor.data_ptr<std::int32_t>(); }

}  // namespace

StoredOnGpu::StoredOnGpu(std::int64_t num_replicas, std::int64_t capacity, const DeviceBatchShape& batch, torch::Device device)
    : num_R_(zeros_on(device, torch::kInt32, {num_replicas})),
      words_RDW_(zeros_on(device, torch::kInt64, {num_replicas, capacity, batch.words()})),
      count_RD_(zeros_on(device, torch::kInt32, {num_replicas, capacity})),
      log_count_RD_(zeros_on(device, torch::kFloat32, {num_replicas, capacity})),
      view_{static_cast<int>(capacity), integers(num_R_), reinterpret_cast<std::uint64_t*>(words_RDW_.data_ptr<std::int64_t>()), integers(count_RD_),
            log_count_RD_.data_ptr<float>()} {}

void QueueOnGpu::make_room(const DeviceQueueShape& shape, const DeviceBatchShape& batch) {
  const std::int64_t R = shape.replicas, F = shape.phases;
  tables_RF_ = zeros_on(device_, torch::kUInt8, {R, F, sizeof(DeviceTable)});
  first_id_RF_ = zeros_on(device_, torch::kInt32, {R, F});
  phase_R_ = zeros_on(device_, torch::kInt32, {R});
  slots_RM_ = zeros_on(device_, torch::kInt32, {R, shape.capacity});
  next_R_ = zeros_on(device_, torch::kInt32, {R});
  size_R_ = zeros_on(device_, torch::kInt32, {R});
  count_RI_ = zeros_on(device_, torch::kInt32, {R, shape.ids});
  work_ = zeros_on(device_, torch::kInt32, {static_cast<std::int64_t>(device_queue_work(shape))});
  queue_ = {shape,
            static_cast<const DeviceTable*>(tables_RF_.data_ptr()),
            integers(first_id_RF_),
            integers(phase_R_),
            integers(slots_RM_),
            integers(next_R_),
            integers(size_R_),
            integers(count_RI_),
            integers(work_)};
  stored_.emplace(R, shape.distinct(), batch, device_);
}

bool QueueOnGpu::upload(const std::vector<const MemoryQueue*>& queues, std::vector<bool> changed, const DeviceBatchShape& batch) {
  if (std::ranges::find(changed, true) == changed.end()) return false;
  std::int64_t phases = 1, ids = 1;
  for (const auto* queue : queues) {
    std::int64_t own = 0;
    for (const auto* table : queue->phases()) own += table->num_sequences();
    phases = std::max(phases, std::ssize(queue->phases()));
    ids = std::max(ids, own);
  }
  const auto& now = queue_.shape;
  const bool moves = phases > now.phases || ids > now.ids || batch.batch != now.batch;
  if (moves) {
    make_room({batch.replicas, static_cast<int>(queues[0]->capacity()), static_cast<int>(ids), static_cast<int>(phases), batch.words(), batch.batch},
              batch);
    changed.assign(changed.size(), true);
  }
  for (std::size_t r = 0; r < queues.size(); ++r) {
    if (!changed[r] || queues[r]->phases().empty()) continue;
    const auto replica = static_cast<std::int64_t>(r);
    std::vector<DeviceTable> tables;
    std::vector<std::int32_t> first_id;
    tables_[r].clear();
    std::int64_t next_id = 0;
    for (const auto* table : queues[r]->phases()) {
      const auto words = table->words();
      tables_[r].push_back(torch::from_blob(const_cast<std::uint64_t*>(words.data()), {std::ssize(words)}, torch::kInt64).to(device_));
      tables.push_back({reinterpret_cast<const std::uint64_t*>(tables_[r].back().const_data_ptr<std::int64_t>()), nullptr, nullptr});
      first_id.push_back(static_cast<std::int32_t>(next_id));
      next_id += table->num_sequences();
    }
    const auto F = std::ssize(tables);
    const auto bytes = torch::from_blob(tables.data(), {F, std::int64_t{sizeof(DeviceTable)}}, torch::kUInt8);
    tables_RF_[replica].slice(0, 0, F).copy_(bytes);
    first_id_RF_[replica].slice(0, 0, F).copy_(torch::tensor(torch::ArrayRef<std::int32_t>(first_id), torch::kInt32));
    phase_R_[replica] = static_cast<std::int32_t>(F - 1);
    auto slots = queues[r]->slots();
    slots.resize(static_cast<std::size_t>(queues[r]->capacity()), -1);
    const auto slots_M = torch::tensor(torch::ArrayRef<std::int64_t>(slots), torch::kInt64).to(device_);
    const c10::DeviceGuard guard(device_);  // a launch goes to the current device
    device_queue_write_cuda(queue_, static_cast<int>(replica), slots_M.const_data_ptr<std::int64_t>(), gpu_stream(device_.index()));
  }
  return moves;
}

void QueueOnGpu::observe(const DeviceBatch& batch, const Tensor& active_R) {
  const c10::DeviceGuard guard(device_);
  device_queue_observe_cuda(queue_, batch.drawn_RB(), active_R.const_data_ptr<std::uint8_t>(), gpu_stream(device_.index()));
}

const DeviceMemory& QueueOnGpu::distinct() {
  const c10::DeviceGuard guard(device_);
  device_queue_distinct_cuda(queue_, stored_->view(), gpu_stream(device_.index()));
  return stored_->view();
}

}  // namespace mnemo
