#include "experiments/directory/run_reader.h"

#include "core/error.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <charconv>

namespace mnemo {

RunConfig stored_config(const fs::path& run_directory) {
  const auto path = run_directory / "config.yaml";
  if (!path_exists(path)) refuse(run_directory, "is no run directory (it has no config.yaml)");
  return load_config(path, {}, /*with_weights=*/false).config;
}

std::vector<std::int64_t> read_steps(const fs::path& path) {
  const auto array = read_npy(path, /*allow_excess=*/true);
  if (array.dtype != Dtype::i64 || array.shape.size() != 1) refuse(path, "expected int64 (T)");
  const auto values = array.view().as<std::int64_t>();
  return {values.begin(), values.end()};
}

std::optional<std::int64_t> last_place_of(const std::vector<std::int64_t>& steps, std::int64_t step) {
  const auto beyond = std::upper_bound(steps.begin(), steps.end(), step);
  if (beyond == steps.begin() || *(beyond - 1) != step) return {};
  return beyond - steps.begin() - 1;
}

std::optional<std::int64_t> RunReader::Set::last_row_at(std::int64_t step) const { return last_place_of(steps, step); }

std::vector<std::int64_t> RunReader::phase_starts() const {
  std::vector<std::int64_t> starts{0};
  try {
    for (const auto& entry : nlohmann::json::parse(read_file(file("switches.json"), 1 << 24))) starts.push_back(entry.at("step").get<std::int64_t>());
  } catch (const nlohmann::json::exception& error) {
    refuse(file("switches.json"), error.what());
  }
  return starts;
}

const RankLaw& RunReader::law() const {
  if (!law_) {
    auto law = rank_law(config_);
    check_ranks(path_, config_, law);
    law_ = std::move(law);
  }
  return *law_;
}

RunReader::Set RunReader::set(const std::string& name) const {
  const auto folder = file("eval") / name;
  return {read_steps(folder / "step.npy"), read_steps(folder / "rank.npy"), NpyRows(folder / "loss.npy"), NpyRows(folder / "accuracy.npy")};
}

NpyArray RunReader::theory(std::int64_t phase) const {
  const auto path = file(fmt::format("theory/phase_{}.npy", phase));
  auto array = read_npy(path);
  if (array.dtype != Dtype::f64 || array.shape != Shape{config_.data.num_sequences, 2}) refuse(path, "expected float64 (K, 2)");
  return array;
}

Safetensors RunReader::weights(const std::string& name) const {
  if (name == "final") {
    if (!path_exists(file("final.safetensors"))) refuse(path_, "this run is not over (it has no final.safetensors)");
    return Safetensors::read(file("final.safetensors"));
  }
  const auto snapshot = file("snapshots") / (name + ".safetensors");
  if (path_exists(snapshot)) return Safetensors::read(snapshot);
  if (!path_exists(name)) refuse(name, "is no file and no snapshot of this run");
  return Safetensors::read(name);
}

std::int64_t step_of(const Safetensors& weights) {
  const auto found = weights.metadata().find("step");
  std::int64_t step = -1;
  if (found != weights.metadata().end()) std::from_chars(found->second.data(), found->second.data() + found->second.size(), step);
  if (step < 0) refuse(weights.path(), "does not say at which step it was written");
  return step;
}

}  // namespace mnemo
