#pragma once

// A device whose memory host code cannot touch, so that the path of a GPU is tested without one: LibTorch's PrivateUse1 backend, two devices of it.
//   memory    pages of their own, closed except while an operation runs; guard pages on both sides; new bytes are 0xff (NaN, -1)
//   ops       the CPU's on copies, after a check that all tensors live on one device
//   pinned    read-only from an asynchronous upload on until the device has been waited for
//   kernels   ours, in the SIMT emulator of tests/simt
//   records   of operations and kernels, by value, done again when they are replayed: what a CUDA graph forbids while it is captured throws
//   counters  what a GPU pays for; a replay is one operation
// Linked before mnemo_engine it stands in for the CUDA sources: `device: cuda:N` is far:N. It counts calls of the dispatcher and our kernels, and
// works in order: it shows no race but that for pinned memory. With FAR_TRACE set, whatever waits says on standard error where it was asked for.

#include <array>
#include <cstdint>
#include <string>

namespace far {

/// `op`: about a launch. `wait`: the host stops until the device has caught up; downloads, uploads from pageable memory and numbers read one by one
/// are among them. `unordered_sum`: over repeated indices, which a GPU adds up in another order each time.
enum Kind { op, wait, pinned_upload, pageable_upload, download, unordered_sum, kKinds };
using Counts = std::array<std::int64_t, kKinds>;
inline constexpr const char* kNames[] = {"ops", "waits", "pinned uploads", "pageable uploads", "downloads", "unordered sums"};

/// Counts of the whole program so far.
Counts counts();
/// Buffers that were taken, device or pinned ones, while this device was the current one.
std::int64_t buffers_taken(int device);

/// Operations and kernels of the latest record.
std::int64_t size_of_record();

/// From here on no kernel runs on any device, for this reason; empty: all do.
void refuse_kernels(std::string reason);
/// The n-th operation from here on, counting from 1, fails as after an illegal access on a GPU.
void break_at_op(std::int64_t n);

}  // namespace far
