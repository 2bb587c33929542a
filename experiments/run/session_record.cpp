#include "experiments/run/session_record.h"

#include "core/files.h"
#include "revision.h"

#include <nlohmann/json.hpp>
#include <torch/torch.h>
#include <unistd.h>

#include <ctime>

namespace mnemo {

using nlohmann::json;

namespace {

std::string utc_now() {
  const auto now = std::time(nullptr);
  std::tm parts{};
  gmtime_r(&now, &parts);
  char text[32];
  std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &parts);
  return text;
}

std::string host_name() {
  char name[256] = "";
  gethostname(name, sizeof name - 1);
  return name;
}

/// The record so far; an empty one if somebody damaged the file.
json read_record(const std::filesystem::path& path) {
  json record;
  try {
    record = json::parse(read_file(path, 1 << 24));
  } catch (const std::exception&) {
    return {{"sessions", json::array()}};
  }
  if (!record.is_object()) record = json::object();
  if (!record["sessions"].is_array()) record["sessions"] = json::array();
  return record;
}

}  // namespace

SessionRecord::SessionRecord(std::filesystem::path path, const RunConfig& config, const torch::Device& device, std::string command)
    : path_(std::move(path)),
      command_(std::move(command)),
      started_(utc_now()),
      device_(device.str()),
      gpu_(device.is_cpu() ? "" : device_name(device)),
      data_seed_(data_seed(config)),
      model_seed_(model_seed(config)),
      threads_(config.threads) {}

void SessionRecord::begin(std::int64_t step, const Log& log) const {
  auto record = read_record(path_);
  auto& sessions = record["sessions"];
  const json session{
      {"start", started_}, {"end", nullptr}, {"result", ""},        {"host", host_name()},       {"processor", device_name(torch::kCPU)},
      {"device", device_}, {"gpu", gpu_},    {"threads", threads_}, {"libtorch", TORCH_VERSION}, {"from_step", step}};
  for (const char* key : {"processor", "device", "gpu", "threads", "libtorch"}) {
    if (sessions.empty() || sessions.back().value(key, key == std::string_view("gpu") ? json("") : json()) == session[key]) continue;
    log.warning("resumed with another {} ({} before, {} now): the rest of the run is right, but not byte-equal to an uninterrupted one", key,
                sessions.back().value(key, json()).dump(), session[key].dump());
  }
  sessions.push_back(session);
  record["version"] = MNEMO_VERSION;
  record["revision"] = MNEMO_REVISION;
  record["command"] = command_;
  record["host"] = host_name();
  record["device"] = device_;
  record["gpu"] = gpu_;
  record["libtorch"] = TORCH_VERSION;
  record["seeds"] = {{"data", data_seed_}, {"model", model_seed_}};
  record["cuda"] = libtorch_cuda_version();
  record["driver"] = driver_cuda_version();
  record["start"] = sessions.front().value("start", json());
  record["end"] = nullptr;
  write_atomically(path_, record.dump(1) + "\n");
}

void SessionRecord::end(const std::string& result) const {
  auto record = read_record(path_);
  auto& sessions = record["sessions"];
  if (sessions.empty()) return;
  sessions.back()["end"] = record["end"] = utc_now();
  sessions.back()["result"] = result;
  write_atomically(path_, record.dump(1) + "\n");
}

}  // namespace mnemo
