#include "experiments/sweep/sweep_folder.h"

#include "experiments/directory/run_reader.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <chrono>
#include <memory>
#include <sstream>
#include <thread>
#include <unordered_map>

namespace mnemo {

using Json = nlohmann::ordered_json;

namespace {

std::string line_of(const SweepRow& row) {
  auto values = Json::object();
  for (const auto& [key, value] : row.values) values[key] = value;
  return Json{{"run", row.run}, {"id", row.id}, {"values", values}}.dump() + "\n";
}

/// Throws std::exception where it is no row.
SweepRow row_of_line(const std::string& line) {
  const auto json = Json::parse(line);
  SweepRow row{json.at("run"), json.at("id"), {}};
  if (const auto rule = run_name(); !rule.text(row.run)) throw std::invalid_argument("its run must be " + rule.wants);
  for (const auto& [key, value] : json.at("values").items()) row.values.emplace_back(key, value.get<std::string>());
  return row;
}

/// Waits for another process that writes the manifest, which takes it no longer than a moment.
std::unique_ptr<DirectoryLock> lock_of(const fs::path& folder) {
  for (int attempts = 100;; --attempts) {
    try {
      return std::make_unique<DirectoryLock>(folder);
    } catch (const Error& error) {
      if (error.code() != ExitCode::locked || attempts == 0) throw;
      std::this_thread::sleep_for(std::chrono::milliseconds(100));
    }
  }
}

void refuse_other_settings(const SweepFolder& folder, const SweepPlan& plan) {
  std::vector<std::string> problems;
  for (const auto& point : plan.points) {
    const auto directory = folder.directory_of(point.run());
    if (!path_exists(directory / "config.yaml")) continue;
    const auto found = differences(stored_config(directory), point.loaded.config);
    if (!found.empty()) problems.push_back(fmt::format("  {}: {}", point.run(), fmt::join(found, "; ")));
  }
  if (problems.empty()) return;
  constexpr std::size_t kShown = 5;
  const auto more = problems.size() > kShown ? fmt::format("\n  and {} more", problems.size() - kShown) : std::string();
  problems.resize(std::min(problems.size(), kShown));
  throw Error(ExitCode::config, fmt::format("{} holds runs with other settings:\n{}{}\nGive this sweep another name (name: ...), or make the setting "
                                            "an axis, which adds points beside the old",
                                            folder.path().string(), fmt::join(problems, "\n"), more));
}

}  // namespace

bool SweepFolder::exists() const { return path_exists(own("manifest.jsonl")); }

std::vector<SweepRow> SweepFolder::rows(const Log& log) const {
  std::vector<SweepRow> rows;
  if (!exists()) return rows;
  const auto path = own("manifest.jsonl");
  std::istringstream text(read_file(path));
  std::int64_t number = 0;
  for (std::string line; std::getline(text, line);) {
    ++number;
    try {
      rows.push_back(row_of_line(line));
    } catch (const std::exception& error) {
      log.warning("{}:{}: not a run of a sweep, left out: {}", path.string(), number, error.what());
    }
  }
  return rows;
}

std::vector<Member> stored_members(const fs::path& group, const std::vector<std::string>& runs, const Log& log) {
  std::vector<Member> members;
  for (const auto& run : runs) {
    try {
      members.push_back({{stored_config(group / run), false}, group / run, false});
    } catch (const Error& error) {
      log.line(LogLevel::error, fmt::format("{}: left out: {}", run, error.what()));
    }
  }
  return members;
}

std::vector<std::string> keys_of(const std::vector<SweepRow>& rows) {
  std::vector<std::string> keys;
  for (const auto& row : rows) {
    for (const auto& [key, value] : row.values) {
      if (std::find(keys.begin(), keys.end(), key) == keys.end()) keys.push_back(key);
    }
  }
  return keys;
}

EarlierSweep SweepFolder::earlier(const Log& log) const {
  const auto known = rows(log);
  EarlierSweep earlier{keys_of(known), {}};
  for (const auto& row : known) earlier.runs[row.id] = row.run;
  return earlier;
}

std::optional<SweepArguments> SweepFolder::last_call() const {
  try {
    const auto call = Json::parse(read_file(own("call.json")));
    return SweepArguments{call.at("config").get<std::string>(), call.at("settings"), call.at("zip"), call.at("launcher")};
  } catch (const std::exception&) {
    return {};
  }
}

void SweepFolder::add(const SweepPlan& plan, const SweepArguments& call, const Log& log) const {
  refuse_other_settings(*this, plan);
  make_directories(own(""));
  const auto lock = lock_of(own(""));
  auto known = rows(log);
  std::unordered_map<std::string, std::size_t> place;
  for (std::size_t i = 0; i < known.size(); ++i) place[known[i].run] = i;
  for (auto& row : known) {  // a new axis: what the runs so far have there
    auto missing = plan.keys;
    for (const auto& [key, value] : row.values) std::erase(missing, key);
    if (missing.empty() || !path_exists(directory_of(row.run) / "config.yaml")) continue;
    const auto config = stored_config(directory_of(row.run));
    for (const auto& key : missing) row.values.emplace_back(key, setting_of(config, key));
  }
  for (const auto& point : plan.points) {
    const auto& config = point.loaded.config;
    const auto directory = directory_of(point.run());
    if (!path_exists(directory / "config.yaml")) {
      make_directories(directory);
      write_atomically(directory / "config.yaml", to_yaml(config), /*durable=*/false);
    }
    SweepRow row{point.run(), point.id, {}};
    for (std::size_t k = 0; k < plan.keys.size(); ++k) row.values.emplace_back(plan.keys[k], point.values[k]);
    if (const auto [at, fresh] = place.emplace(row.run, known.size()); fresh) {
      known.push_back(std::move(row));
    } else {
      known[at->second] = std::move(row);  // perhaps of more steps than before
    }
  }
  std::string text;
  for (const auto& row : known) text += line_of(row);
  write_atomically(own("manifest.jsonl"), text);
  const Json latest{
      {"config", canonical_path(call.config_path).string()}, {"settings", call.overrides}, {"zip", call.zips}, {"launcher", call.launcher}};
  write_atomically(own("call.json"), latest.dump(1, ' ', false, Json::error_handler_t::replace) + "\n", /*durable=*/false);
}

}  // namespace mnemo
