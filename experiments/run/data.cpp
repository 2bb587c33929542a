#include "experiments/run/data.h"

#include "core/error.h"
#include "core/files.h"
#include "core/npy.h"
#include "experiments/run/evaluate.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>

namespace mnemo {

namespace {

/// data.weights, probabilities but for their sum, in the order of the file's rows.
std::vector<double> own_probabilities(const DataConfig& data) {
  const auto array = read_npy(*data.weights);
  std::vector<double> probabilities;
  const auto take = [&]<class T>() {
    for (const auto value : array.view().as<T>()) probabilities.push_back(static_cast<double>(value));
  };
  switch (array.dtype) {
    case Dtype::u8: take.template operator()<std::uint8_t>(); break;
    case Dtype::i32: take.template operator()<std::int32_t>(); break;
    case Dtype::i64: take.template operator()<std::int64_t>(); break;
    case Dtype::f32: take.template operator()<float>(); break;
    case Dtype::f64: take.template operator()<double>(); break;
  }
  double total = 0;
  for (std::size_t row = 0; row < probabilities.size(); ++row) {
    if (!std::isfinite(probabilities[row]) || probabilities[row] < 0) {
      refuse(*data.weights, fmt::format("weight {} of row {} is no probability", probabilities[row], row));
    }
    total += probabilities[row];
  }
  if (!(total > 0) || !std::isfinite(total)) refuse(*data.weights, fmt::format("the weights sum to {}", total));
  return probabilities;
}

}  // namespace

std::string RankLaw::digest() const {
  if (rows.empty()) return {};
  const auto& probabilities = sampler.probabilities();
  return hash_of(hash_of({reinterpret_cast<const char*>(probabilities.data()), probabilities.size() * sizeof(double)}) +
                 hash_of({reinterpret_cast<const char*>(rows.data()), rows.size() * sizeof(std::int64_t)}));
}

RankLaw rank_law(const RunConfig& config) {
  const auto& data = config.data;
  if (!data.weights) return {RankSampler::zipf(data.num_sequences, data.zipf_exponent), {}};
  auto probabilities = own_probabilities(data);
  std::vector<std::int64_t> rows(probabilities.size());
  std::iota(rows.begin(), rows.end(), 0);
  std::stable_sort(rows.begin(), rows.end(),
                   [&](auto a, auto b) { return probabilities[static_cast<std::size_t>(a)] > probabilities[static_cast<std::size_t>(b)]; });
  std::sort(probabilities.begin(), probabilities.end(), std::greater<>());
  return {RankSampler(probabilities), std::move(rows)};
}

SequenceTable table_of_phase(const RunConfig& config, const RankLaw& law, std::int64_t phase, const Poll& poll) {
  const auto& data = config.data;
  if (phase > 0 || !data.file) {
    return SequenceTable::random(data_seed(config), static_cast<std::uint32_t>(phase), data.num_sequences, data.length, poll);
  }
  try {
    return SequenceTable::from_array(read_npy(*data.file).view(), law.rows, poll);
  } catch (const std::invalid_argument& error) {
    refuse(*data.file, error.what());
  }
}

void check_ranks(const std::filesystem::path& run_directory, const RunConfig& config, const RankLaw& law) {
  if (law.rows.empty()) return;
  const auto path = run_directory / "data_rows.npy";
  bool same = std::is_sorted(law.rows.begin(), law.rows.end());  // no file: a run of an older version, whose ranks are rows
  if (path_exists(path)) {
    const auto written = read_npy(path);
    same = written.dtype == Dtype::i64 && std::ranges::equal(written.view().as<std::int64_t>(), law.rows);
  }
  if (same) return;
  refuse(run_directory, fmt::format("its ranks are not those that {} gives now: the weights have changed since, or an older version made the run. "
                                    "Train it again",
                                    *config.data.weights));
}

Theory theory_of(const RunConfig& config, const SequenceTable& table, const RankSampler& sampler, const Poll& poll) {
  const auto bins = config.eval.by_position ? rank_bins(table.num_sequences()) : std::vector<RankBin>{};
  const auto facts = facts_of(config);
  return bayes(table, sampler.probabilities(), facts.first_predicted_bit, facts.task == Task::sequences, bins, poll);
}

PhaseData data_of_phase(const RunConfig& config, const RankLaw& law, std::int64_t phase, const Poll& poll) {
  auto table = table_of_phase(config, law, phase, poll);
  auto theory = theory_of(config, table, law.sampler, poll);
  return {std::move(table), std::move(theory)};
}

std::string data_key(const RunConfig& config) {
  const auto facts = facts_of(config);
  auto data = config.data;
  data.seed = data_seed(config);
  return fmt::format("{}{} {} {}", to_yaml(data), facts.first_predicted_bit, facts.task == Task::sequences, config.eval.by_position);
}

}  // namespace mnemo
