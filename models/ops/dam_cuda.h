#pragma once

// The training step of the dense associative memory on a GPU. No torch header, C++17: nvcc compiles this too.

#include "core/device_cells.h"
#include "models/ops/device_queue.h"

#include <cstddef>
#include <cstdint>

namespace mnemo {

/// Sizes, and what all replicas share (see DamShape).
struct DamCudaShape {
  DeviceBatchShape batch;
  int heads;
  int distinct;  ///< D, the most stored sequences
  bool clamped = false, retrieval = false;
  int parts = 0;  ///< of the stored sequences that are passed side by side; fixes the order of sums. 0: as many as fill a GPU with one replica
};
constexpr int kDamCudaMaxLength = 1024;  ///< bits

/// Arrays in device memory. Weights and gradients are those of replica 0; those of replica r lie r * stride floats on.
struct DamCudaStep {
  DamCudaShape shape;
  DeviceCells cells;
  DeviceMemory memory;
  const float* eta_R;                ///< inverse temperatures
  const float *A_logits, *B_logits;  ///< [L, H, L], of which row n uses entries < n; [H, L]
  float *dA_logits, *dB_logits;      ///< the gradient: all elements are written, 0 for a replica without cells or without memory
  std::size_t stride;
  double *loss_R, *accuracy_R;  ///< weighted means over predictions (nats; ties in equal parts); 0 for a replica without cells
  std::uint8_t* learns_R;       ///< 0: no cells or an empty memory: the weights are not to be updated. Its logits are 0
  void* work;                   ///< dam_cuda_work() bytes, aligned to 16
};
/// Throws std::invalid_argument for a length above kDamCudaMaxLength and sizes below 1.
std::size_t dam_cuda_work(const DamCudaShape& shape);

/// The same arithmetic as DamRetrieval (dam_retrieval.h), from the cells of a batch to the gradient. Eight launches; what they compute depends
/// neither on the number of replicas nor on D (with equal `parts`), nor their number on anything but the shape.
void dam_gradient_cuda(const DamCudaStep& step, void* stream);

/// Logits of P(next bit = 1) of the cells, [R, N]; clamped if the shape says so. Reads no gradient.
void dam_logits_cuda(const DamCudaStep& step, float* logit_RN, void* stream);

/// Retrieval: loss and accuracy of each distinct row at each position, [R, B, P]; rows that are not there are left as they are.
void dam_identify_cuda(const DamCudaStep& step, float* loss_RBP, float* accuracy_RBP, void* stream);

}  // namespace mnemo
