#include "core/device_batch.h"

#include "core/draws.h"
#include "core/gpu.h"
#include "core/packed_bits.h"

#include <torch/torch.h>

#include <cstring>

namespace mnemo {

using torch::Tensor;

namespace {

/// Integers of the host as a tensor of their own on a device. Waits.
template <class Integer>
Tensor uploaded(std::span<const Integer> values, torch::Device device) {
  const auto type = sizeof(Integer) == 8 ? torch::kInt64 : torch::kInt32;
  return torch::from_blob(const_cast<Integer*>(values.data()), {std::ssize(values)}, type).to(device, type, /*non_blocking=*/false, /*copy=*/true);
}

/// Writes entry `index` of an array of structs on a device. Waits.
template <class Struct>
void set_entry(const Tensor& bytes_N, std::int64_t index, const Struct& value) {
  auto bytes = torch::empty({std::int64_t{sizeof(Struct)}}, torch::kUInt8);
  std::memcpy(bytes.data_ptr(), &value, sizeof(Struct));
  bytes_N[index].copy_(bytes);
}

}  // namespace

DeviceBatch::DeviceBatch(const DeviceBatchShape& shape, Tensor step_1, torch::Dtype dtype)
    : dtype_(dtype), step_1_(std::move(step_1)), sources_(static_cast<std::size_t>(shape.replicas)) {
  const std::int64_t R = shape.replicas, B = shape.batch, N = shape.capacity();
  const auto zeros = [&](std::vector<std::int64_t> sizes, torch::Dtype type) { return torch::zeros(sizes, step_1_.options().dtype(type)); };
  drawn_RB_ = zeros({R, B}, torch::kInt32);
  seed_R_ = zeros({R}, torch::kInt32);
  laws_R_ = zeros({R, sizeof(DeviceRankLaw)}, torch::kUInt8);
  tables_R_ = zeros({R, sizeof(DeviceTable)}, torch::kUInt8);
  num_rows_R_ = zeros({R}, torch::kInt32);
  first_RG_ = zeros({R, shape.groups() + 1}, torch::kInt32);
  bits_RBW_ = zeros({R, B, shape.words()}, torch::kInt64);
  rank_RB_ = zeros({R, B}, torch::kInt32);
  count_RB_ = zeros({R, B}, torch::kInt32);
  row_RN_ = zeros({R, N}, torch::kInt32);
  mass_RN2_ = zeros({R, N, 2}, torch::kInt32);
  const auto integers = [](const Tensor& tensor) { return tensor.data_ptr<std::int32_t>(); };
  cells_ = {shape,
            integers(num_rows_R_),
            integers(first_RG_),
            reinterpret_cast<std::uint64_t*>(bits_RBW_.data_ptr<std::int64_t>()),
            integers(rank_RB_),
            integers(count_RB_),
            integers(row_RN_),
            integers(mass_RN2_)};
}

void DeviceBatch::set_draws(std::int64_t replica, const DrawStream& draws) {
  auto& source = sources_[static_cast<std::size_t>(replica)];
  const auto device = step_1_.device();
  source.first_beyond = uploaded(draws.sampler().first_beyond(), device);
  source.guide = uploaded(draws.sampler().guide(), device);
  seed_R_[replica] = static_cast<std::int32_t>(draws.seed());
  set_entry(laws_R_, replica,
            DeviceRankLaw{reinterpret_cast<const std::uint64_t*>(source.first_beyond.const_data_ptr<std::int64_t>()),
                          source.guide.const_data_ptr<std::int32_t>(), RankSampler::kGuideBits});
  stream_ = draws.stream();
}

void DeviceBatch::set_table(std::int64_t replica, const SequenceTable& table) {
  auto& source = sources_[static_cast<std::size_t>(replica)];
  num_sequences_ = table.num_sequences();
  source.words_KW = uploaded(table.words(), step_1_.device());
  source.place_K = uploaded(table.places(), step_1_.device());
  source.order_K = uploaded(table.order(), step_1_.device());
  set_entry(tables_R_, replica,
            DeviceTable{reinterpret_cast<const std::uint64_t*>(source.words_KW.const_data_ptr<std::int64_t>()),
                        source.place_K.const_data_ptr<std::int32_t>(), source.order_K.const_data_ptr<std::int32_t>()});
}

void DeviceBatch::make(const Tensor& active_R) {
  const auto device = step_1_.device();
  const c10::DeviceGuard guard(device);  // a launch goes to the current device
  auto* const stream = gpu_stream(device.index());
  draw_cuda(
      {shape().replicas, shape().batch, static_cast<std::uint32_t>(stream_), reinterpret_cast<const std::uint32_t*>(seed_R_.data_ptr<std::int32_t>()),
       static_cast<const DeviceRankLaw*>(laws_R_.data_ptr()), step_1_.data_ptr<std::int64_t>(), drawn_RB_.data_ptr<std::int32_t>()},
      stream);
  device_cells_cuda(cells_, drawn_RB(), tables_R(), active_R.data_ptr<std::uint8_t>(), stream);
}

CellTensors DeviceBatch::tensors() const {
  const std::int64_t P = shape().positions(), N = shape().capacity();
  const auto cell_N = torch::arange(N, first_RG_.options()).expand({shape().replicas, N}).contiguous();
  const auto group_RN =
      torch::searchsorted(first_RG_.slice(1, 1).contiguous(), cell_N, /*out_int32=*/false, /*right=*/true);  // the last that begins at or before it
  const auto is_cell_RN = cell_N < first_RG_.slice(1, -1);
  const auto position_RN = torch::where(is_cell_RN, group_RN.div(2, "floor"), 0);
  const auto weight_RN2 = torch::where(is_cell_RN.unsqueeze(2), mass_RN2_, 0).to(dtype_) / static_cast<double>(shape().batch * P);
  return {unpack_bits(bits_RBW_, shape().length), row_RN_.to(torch::kInt64) * P + position_RN, weight_RN2};
}

}  // namespace mnemo
