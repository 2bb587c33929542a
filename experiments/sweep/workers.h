#pragma once

#include "core/error.h"

#include <cstddef>
#include <functional>
#include <string>
#include <vector>

namespace mnemo {

/// What a worker says of a run of its pack.
struct RunReport {
  std::size_t member;  ///< index in the pack
  ExitCode code;
  std::string message;  ///< of an error; one line or more
};

/// How a worker ended.
struct WorkerEnd {
  std::vector<RunReport> reports;  ///< of the runs that it finished with
  std::string death;               ///< "killed by signal 9 (Killed)" or the like, where it did not come to its own end
  bool killed = false;             ///< by signal 9, as the kernel does where memory is short
  std::string last_words;          ///< what it wrote to its standard output and error, the end of it
};

/// What a pool of workers asks of whoever has the work.
struct PoolTasks {
  std::size_t count = 0;  ///< may grow while they are carried out
  /// Runs in the worker, a fork of this process. `place` is below `jobs`; no two workers at a time have the same.
  std::function<std::vector<RunReport>(std::size_t task, std::size_t place)> work;
  // in this process:
  std::function<void(std::size_t task)> before;  ///< right before its worker is forked
  std::function<void(std::size_t task)> started;
  std::function<void(std::size_t task, const WorkerEnd&)> ended;
  std::function<void()> tick;  ///< a few times a second
  std::function<bool()> stop;  ///< start no more workers, and ask those that run to save and stop
};

/// Carries out tasks in forked processes, `jobs` at a time; returns when all have ended or, after stop, when those that ran have. A worker that
/// crashes or is killed ends alone. Workers are killed where this process dies. To be called while the process has one thread.
void run_workers(const PoolTasks& tasks, std::size_t jobs);

}  // namespace mnemo
