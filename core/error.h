#pragma once

#include <stdexcept>
#include <string>

namespace mnemo {

/// Exit codes of the process. Scripts and job systems rely on the numbers.
enum class ExitCode : int {
  done = 0,
  usage = 64,          ///< a command line that cannot be understood
  data = 65,           ///< a corrupt or foreign file
  locked = 69,         ///< another process works in this run directory
  bug = 70,            ///< an internal assumption failed
  resources = 71,      ///< no such device, or out of memory
  cannot_create = 73,  ///< a directory or file that cannot be created
  io = 74,             ///< a full disk, a failed read or write
  stopped = 75,        ///< stopped by a signal or a time limit; the same command resumes
  diverged = 76,       ///< non-finite loss or gradient
  config = 78,         ///< an invalid configuration
};

/// A failure that a user can cause, with the exit code that names its kind.
class Error : public std::runtime_error {
 public:
  Error(ExitCode code, const std::string& message) : std::runtime_error(message), code_(code) {}
  ExitCode code() const { return code_; }

 private:
  ExitCode code_;
};

}  // namespace mnemo
