#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>

namespace mnemo {

/// CPU time a second that the process may use, in cores: the least quota of its control groups (v1 and v2) and of those
/// around them. Nothing where there is no quota. `root` stands for / in tests.
std::optional<double> cpu_quota(const std::filesystem::path& root = "/");

/// Cores that the process may run on, without a quota.
std::int64_t affine_cores();

/// Threads that may compute at once: whole cores within affinity and quota, at least 1.
std::int64_t available_cores(const std::filesystem::path& root = "/");

/// Starts the program again with OMP_WAIT_POLICY=passive where more than one thread will work and nobody has chosen a
/// policy: threads that wait would spin and slow all others down on a busy machine, and libgomp reads the policy before
/// main(). To be called before anything else is done.
void wait_without_spinning(std::int64_t threads);

}  // namespace mnemo
