#pragma once

#include "core/device.h"
#include "core/log.h"
#include "experiments/config/config.h"

#include <cstdint>
#include <filesystem>
#include <string>

namespace mnemo {

/// meta.json of a run: where, when and with what each of its sessions ran.
class SessionRecord {
 public:
  SessionRecord(std::filesystem::path path, const RunConfig& config, const torch::Device& device, std::string command);

  /// Adds this session. Warns if machine or libraries differ from the last session's, so that bytes may differ too.
  void begin(std::int64_t step, const Log& log) const;
  /// "done", "stopped", "diverged", "at_chance".
  void end(const std::string& result) const;

 private:
  std::filesystem::path path_;
  std::string command_, started_;
  std::string device_, gpu_;
  std::uint32_t data_seed_, model_seed_;
  std::int64_t threads_;
};

}  // namespace mnemo
