#pragma once

#include "core/config.h"

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace mnemo {

/// What `mnemo sweep --launcher slurm` asks a cluster for. The names are those of submitit; null leaves a choice to the cluster.
struct SlurmConfig {
  std::optional<std::string> partition, account, qos, constraint;
  std::int64_t timeout_min = 60, cpus_per_task = 1, array_parallelism = 256, max_requeues = 10;
  std::optional<std::int64_t> gpus_per_node;
  std::optional<double> mem_gb;
  std::vector<std::string> setup, additional_parameters;
  std::optional<std::string> command;

  template <class Self, class Visit>
  static void fields(Self& self, Visit&& visit) {
    visit("partition", self.partition, "queue that the jobs are put into");
    visit("account", self.account, "whom the time is charged to");
    visit("qos", self.qos, "quality of service");
    visit("constraint", self.constraint, "features that a node must have");
    visit("timeout_min", self.timeout_min, "minutes after which a job saves and is queued again", in_range(1, 1e6));
    visit("cpus_per_task", self.cpus_per_task, "CPU cores of a job", in_range(1, 4096));
    visit("gpus_per_node", self.gpus_per_node, "GPUs of a job", in_range(1, 64));
    visit("mem_gb", self.mem_gb, "memory of a job in GB", positive());
    visit("array_parallelism", self.array_parallelism, "jobs that run at once", in_range(1, 100000));
    visit("max_requeues", self.max_requeues, "how often a job is queued again at its time limit", in_range(0, 10000));
    visit("setup", self.setup, "lines of shell before the program, such as module load cuda");
    visit("additional_parameters", self.additional_parameters, "further options of sbatch, name=value");
    visit("command", self.command, "what the program is started by, such as a container call");
  }
};

}  // namespace mnemo
