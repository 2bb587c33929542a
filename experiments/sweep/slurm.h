#pragma once

#include "experiments/config/slurm_config.h"
#include "experiments/run/worker.h"
#include "experiments/sweep/sweep_folder.h"

#include <cstddef>
#include <filesystem>
#include <string>
#include <vector>

namespace mnemo {

// A submission is a folder .sweep/job_<n> with
//   packs.jsonl  a line for each task of a SLURM array: the runs that it carries out, ["train.lr=0.001", ...]
//   job.sh       what sbatch is given
//   <task>.log   what each task says
// A task is `mnemo work FOLDER TASK`, which carries out the pack of that line as `mnemo train` does.

/// The job script of `tasks` tasks; `program` is called in each.
std::string job_script(const SlurmConfig& slurm, const std::string& group, const std::filesystem::path& folder, std::size_t tasks,
                       const std::string& program);

/// What the latest submission asked the cluster for. Throws Error{data} where there was none.
SlurmConfig latest_slurm_config(const SweepFolder& folder);

/// Writes what is not over of `members` as submissions, each as large an array as the cluster takes, and submits them; their job ids.
/// Throws Error{config} where there is no sbatch, or it refuses.
std::vector<std::string> submit(const SweepFolder& folder, const std::vector<Member>& members, const SlurmConfig& slurm, std::size_t max_pack,
                                const std::string& program);

/// Waits until no task of these jobs is in the queue; false: `stop` ended the waiting.
bool wait_for_jobs(const std::vector<std::string>& jobs, const std::function<bool()>& stop);

/// Carries out the runs of a task in this process. At the warning before its time limit (USR1) it saves, and puts the task into the queue again, at
/// most `max_requeues` times; at anything else it saves and stops.
ExitCode carry_out_task(const std::filesystem::path& folder, std::int64_t task, const Host& host);

}  // namespace mnemo
