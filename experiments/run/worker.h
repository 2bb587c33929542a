#pragma once

#include "core/error.h"
#include "experiments/config/config.h"
#include "experiments/run/host.h"

#include <exception>
#include <filesystem>
#include <vector>

namespace mnemo {

/// A run that a worker is to carry out: its settings, and the directory that is to hold it.
struct Member {
  LoadedConfig loaded;
  std::filesystem::path directory;
  bool restart = false;  ///< move an existing run aside
};

/// How it ended.
struct MemberResult {
  RunConfig config;                ///< as it was carried out
  bool was_over = false;           ///< nothing was left to do
  ExitCode code = ExitCode::done;  ///< done or stopped, if there is no error
  std::exception_ptr error;        ///< an Error: refused (locked, other settings), diverged, failed
};

/// Whether a run has come to the end of its configuration, or stayed at chance: nothing is left to do.
bool is_over(const std::filesystem::path& directory, const RunConfig& config);

/// Carries out runs of one pack: locks each directory, compares its settings with those it was made with, starts or resumes. A run that is refused,
/// or fails, is left out; the others go on.
std::vector<MemberResult> carry_out(std::vector<Member> members, const Host& host);

}  // namespace mnemo
