#pragma once

// The commands that a user gives, in a cache of its own, and what they leave behind.

#include "experiments/commands/train.h"

#include "core/files.h"
#include "support.h"
#include "test_device.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>
#include <unistd.h>

#include <map>

namespace mnemo::test {

/// Files that record the process, not the results.
inline bool is_record_of_the_process(const fs::path& relative) {
  const auto name = relative.filename();
  return name == "meta.json" || name == "status.json" || name == "timing.jsonl" || name == "log.txt" || name == "LOCK" ||
         relative.begin()->string() == "checkpoints";
}

/// Relative path -> bytes of everything that a resumed run promises to have in common with an uninterrupted one, the whole state at its
/// planned end among it.
inline std::map<std::string, std::string> results(const fs::path& directory, std::int64_t planned_end = 24) {
  std::map<std::string, std::string> files;
  for (const auto& entry : fs::recursive_directory_iterator(directory)) {
    const auto relative = fs::relative(entry.path(), directory);
    if (entry.is_regular_file() && !is_record_of_the_process(relative)) files[relative.string()] = slurp(entry.path());
  }
  files["end"] = slurp(directory / "checkpoints" / fmt::format("step_{}.0.safetensors", planned_end));
  return files;
}

inline void expect_same(const std::map<std::string, std::string>& actual, const std::map<std::string, std::string>& expected) {
  for (const auto& [path, bytes] : expected) {
    EXPECT_TRUE(actual.contains(path)) << path << " is missing";
    if (!actual.contains(path)) continue;
    EXPECT_TRUE(actual.at(path) == bytes) << path << " differs";
  }
  for (const auto& [path, bytes] : actual) EXPECT_TRUE(expected.contains(path)) << path << " is one too many";
}

/// What one call of train() said and returned.
struct Outcome {
  ExitCode code;
  std::string text;  ///< standard output and error, and an Error's message
};

/// Temporary files go to memory if possible: fsync would take nine tenths of the time.
[[maybe_unused]] inline const bool in_memory = ::access("/dev/shm", W_OK) == 0 && ::setenv("TMPDIR", "/dev/shm", 0) == 0;

/// A configuration that names the CPU, on the device under test.
inline std::string on_test_device(std::string config) {
  const std::string line = "device: cpu\n";
  if (const auto at = config.find(line); at != config.npos) config.replace(at, line.size(), "device: " + test_device_name() + "\n");
  return config;
}

/// A cache of its own, and the commands that a user gives in it.
class Place {
 public:
  explicit Place(const std::string& config) { spill(file(), on_test_device(config)); }

  fs::path file() const { return root_ / "tiny.yaml"; }
  fs::path cache() const { return root_ / "cache"; }
  fs::path run() const { return cache() / "tiny" / "tiny"; }
  fs::path checkpoint(std::int64_t step, std::int64_t actions) const {
    return run() / "checkpoints" / fmt::format("step_{}.{}.safetensors", step, actions);
  }
  nlohmann::json status() const { return nlohmann::json::parse(slurp(run() / "status.json")); }
  std::string metrics() const { return slurp(run() / "metrics.jsonl"); }

  TrainRequest request(std::vector<std::string> overrides = {}) const {
    TrainRequest request;
    request.config_path = file();
    request.cache = cache();
    request.overrides = std::move(overrides);
    return request;
  }

  static Outcome carry_out(const TrainRequest& request) {
    ::testing::internal::CaptureStdout();
    ::testing::internal::CaptureStderr();
    Outcome outcome{};
    try {
      outcome.code = mnemo::train(request);
    } catch (const Error& error) {
      outcome = {error.code(), error.what()};
    }
    std::fflush(stdout);
    outcome.text += ::testing::internal::GetCapturedStdout() + ::testing::internal::GetCapturedStderr();
    return outcome;
  }
  Outcome train(std::vector<std::string> overrides = {}) const { return carry_out(request(std::move(overrides))); }

  /// Stops when the run asks for the k-th time (from 1) whether it should.
  Outcome train_until_poll(std::int64_t k, std::vector<std::string> overrides = {}) const {
    auto stopping = request(std::move(overrides));
    stopping.host.stop = [k, polls = std::int64_t{0}]() mutable { return ++polls >= k; };
    return carry_out(stopping);
  }

 private:
  TemporaryDirectory root_;
};

}  // namespace mnemo::test
