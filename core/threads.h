#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>

namespace mnemo {

/// The CPU quota of the process in cores: the smallest of its control groups (v1 and v2) and their parents. Nothing if there is none. `root` replaces
/// / in tests.
std::optional<double> cpu_quota(const std::filesystem::path& root = "/");

/// Cores that the process may run on, ignoring quotas.
std::int64_t affine_cores();

/// Threads that may compute at once: whole cores within affinity and quota, at least 1.
std::int64_t available_cores(const std::filesystem::path& root = "/");

/// Restarts the program with OMP_WAIT_POLICY=passive if several threads will work and the user has chosen no policy. Waiting threads would otherwise
/// spin and slow a busy machine down, and libgomp reads the policy before main(). Call it before doing anything else.
void wait_without_spinning(std::int64_t threads);

}  // namespace mnemo
