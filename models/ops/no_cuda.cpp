// Replaces the CUDA sources of this folder in a build without CUDA, as core/no_cuda.cpp does. Nothing is ever called.

#include "models/ops/dam_cuda.h"
#include "models/ops/one_layer_cuda.h"

#include <stdexcept>
#include <string>

namespace mnemo {

namespace {
[[noreturn]] void refuse(const char* what) { throw std::logic_error(std::string(what) + ": this mnemo was built without CUDA"); }
}  // namespace

std::size_t one_layer_cuda_work(const OneLayerCudaShape&, const DeviceBatchShape&) { refuse("one_layer_cuda_work"); }
void one_layer_gradient_cuda(const OneLayerCudaStep&, void*) { refuse("one_layer_gradient_cuda"); }
std::size_t dam_cuda_work(const DamCudaShape&) { refuse("dam_cuda_work"); }
void dam_gradient_cuda(const DamCudaStep&, void*) { refuse("dam_gradient_cuda"); }
std::size_t device_queue_work(const DeviceQueueShape&) { refuse("device_queue_work"); }
void device_queue_observe_cuda(const DeviceQueue&, const std::int32_t*, const std::uint8_t*, void*) { refuse("device_queue_observe_cuda"); }
void device_queue_distinct_cuda(const DeviceQueue&, const DeviceMemory&, void*) { refuse("device_queue_distinct_cuda"); }
void device_queue_write_cuda(const DeviceQueue&, int, const std::int64_t*, void*) { refuse("device_queue_write_cuda"); }
void device_table_stored_cuda(const DeviceTable*, int, int, int, const DeviceMemory&, void*) { refuse("device_table_stored_cuda"); }

}  // namespace mnemo
