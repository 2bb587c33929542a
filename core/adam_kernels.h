#pragma once

// The part of Adam that is written twice, once for the CPU and once in CUDA. No torch header: nvcc compiles this too.

#include "core/adam_math.h"

#include <cstdint>

namespace mnemo {

/// Raw view of an optimizer's buffers. `Real` is float or double. All pointers live on one device.
template <class Real>
struct AdamBuffers {
  Real* parameters;             ///< [R, P]
  const Real* gradient;         ///< [R, P]
  Real* first_moment;           ///< [R, P]
  Real* second_moment;          ///< [R, P]
  const std::int64_t* offset;   ///< [T] first element of each tensor in a row
  const std::int64_t* size;     ///< [T] elements of each tensor
  const std::int64_t* steps;    ///< [R, T] updates done, this one included
  const std::uint8_t* frozen;   ///< [R, T]
  const AdamScalars* scalars;   ///< [R]
  AdamRates* rates;             ///< [R] of this update
  const std::uint8_t* updates;  ///< [R] 0: the replica is skipped
  std::int64_t num_replicas, row_size, num_tensors;
  bool clips;  ///< a replica has a clip_norm
};

/// Updates every tensor that is not frozen, of every replica that takes part.
template <class Real>
void adam_step_cpu(const AdamBuffers<Real>& buffers);

/// Kernels over tensors have a block of kTensorThreads threads for each (x, tensor, replica), x < blocks_of_tensor(): for the largest tensor that a
/// row could hold, four elements a thread, or more where that would be too many blocks. The blocks that a smaller tensor lacks work for leave at
/// once.
constexpr int kTensorThreads = 256;
constexpr unsigned blocks_of_tensor(std::int64_t row_size) {
  constexpr std::int64_t kMost = 512, kElements = 4 * kTensorThreads;
  const auto blocks = (row_size + kElements - 1) / kElements;
  return static_cast<unsigned>(blocks < 1 ? 1 : blocks > kMost ? kMost : blocks);
}

/// The same on the current GPU: a single launch on `stream` (a cudaStream_t). Throws std::runtime_error.
template <class Real>
void adam_step_cuda(const AdamBuffers<Real>& buffers, void* stream);

}  // namespace mnemo
