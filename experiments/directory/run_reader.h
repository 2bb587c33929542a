#pragma once

#include "core/npy.h"
#include "core/safetensors.h"
#include "experiments/config/config.h"
#include "experiments/directory/run_directory.h"
#include "experiments/run/data.h"

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace mnemo {

/// The configuration that a run directory was made with. Throws Error{data} if there is none.
RunConfig stored_config(const fs::path& run_directory);

/// What a run directory holds, read only. Every function throws Error{data} or Error{io} where a file is missing or not whole.
class RunReader {
 public:
  /// With the settings of the directory's own config.yaml.
  explicit RunReader(fs::path directory) : RunReader(directory, stored_config(directory)) {}
  RunReader(fs::path directory, RunConfig config) : path_(std::move(directory)), config_(std::move(config)) {}

  const fs::path& path() const { return path_; }
  fs::path file(const std::string& name) const { return path_ / name; }
  const RunConfig& config() const { return config_; }
  Status status() const { return read_status(path_); }
  /// What the run drew from; read once. Throws Error{data} if its ranks are not those that the configuration gives now.
  const RankLaw& law() const;

  /// Steps at which the phases so far began; the first is 0.
  std::vector<std::int64_t> phase_starts() const;

  /// One set under eval/. Of two rows with one step the first is before the events of that step, the second after them.
  struct Set {
    std::vector<std::int64_t> steps, ranks;
    NpyRows loss, accuracy;

    /// The last row of those with this step.
    std::optional<std::int64_t> last_row_at(std::int64_t step) const;
  };
  Set set(const std::string& name) const;

  /// (K, 2) floor of the loss and ceiling of the accuracy of each rank of a phase.
  NpyArray theory(std::int64_t phase) const;

  /// `final`, the name of a snapshot, or else a file.
  Safetensors weights(const std::string& name) const;

 private:
  fs::path path_;
  RunConfig config_;
  mutable std::optional<RankLaw> law_;
};

/// The step at which weights were written. Throws Error{data} if the file does not say.
std::int64_t step_of(const Safetensors& weights);

/// The last place of a step in a sorted list.
std::optional<std::int64_t> last_place_of(const std::vector<std::int64_t>& steps, std::int64_t step);
std::vector<std::int64_t> read_steps(const fs::path& path);

}  // namespace mnemo
