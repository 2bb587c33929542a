#include "experiments/run/disk.h"

#include "core/array.h"
#include "experiments/record/notebook_pickle.h"
#include "experiments/run/attention_measures.h"
#include "experiments/run/evaluate.h"
#include "experiments/run/schedule.h"

#include <cmath>
#include <numeric>

namespace mnemo {

namespace {

/// How often the events of a kind happen.
template <class Event>
double occurrences(const RunConfig& config) {
  std::int64_t total = 0;
  for (const auto& event : config.events) total += std::holds_alternative<Event>(event) ? schedule_of(event).occurrences(config.train.steps) : 0;
  return static_cast<double>(total);
}

double bytes_of_weights(const RunConfig& config) {
  return static_cast<double>(facts_of(config).num_parameters()) * (config.precision == "fp64" ? 8 : 4);
}

/// Of one evaluation.
double attention_bytes(const RunConfig& config) {
  const auto ranks = (config.data.num_sequences - 1) / config.eval.train_stride + 1;
  double bytes = 0;
  for (const auto& name : config.eval.attention) {
    bytes += 4 * static_cast<double>(num_elements(attention_measure_shape(name, facts_of(config), config.data.length, ranks)));
  }
  return bytes;
}

double features_bytes(const RunConfig& config) {
  const auto& widths = facts_of(config).hidden_widths;
  double bytes = 0;
  for (const auto& event : config.events) {
    if (const auto* e = std::get_if<FeaturesEvent>(&event)) {
      bytes += static_cast<double>(e->schedule.occurrences(config.train.steps) * e->sequences) *
               std::ceil(static_cast<double>(config.data.length - 1) / static_cast<double>(e->stride)) * 4 *
               std::accumulate(widths.begin(), widths.end(), 0.0);
    }
  }
  return bytes;
}

double pickle_bytes(const RunConfig& config) {
  const auto settings = notebook_settings(config);
  if (settings.format == "none") return 0;
  const auto K = static_cast<double>(config.data.num_sequences), L = static_cast<double>(config.data.length);
  const auto phases = static_cast<double>(num_phases(config));
  const double sequences = phases * K * (8 * L + 3);
  if (!has_notebook_record(config.model)) return sequences;
  const double stride = settings.rows == "all_ranks"        ? 1
                        : settings.rows == "all_validation" ? static_cast<double>(config.eval.validation_stride)
                                                            : kNotebookRowStride;
  const double rows = K / stride * (settings.rows.starts_with("all_") && settings.rows != "all_ranks" ? phases : 1);
  const double logs = static_cast<double>(config.train.steps) / static_cast<double>(settings.epoch_steps);
  return logs * (8 * K + 24 * rows + attention_bytes(config)) + (1 + occurrences<SnapshotEvent>(config)) * bytes_of_weights(config) + sequences;
}

}  // namespace

DiskNeed disk_need(const RunConfig& config) {
  const auto K = static_cast<double>(config.data.num_sequences), L = static_cast<double>(config.data.length);
  const auto phases = static_cast<double>(num_phases(config));
  const auto& eval = config.eval;
  DiskNeed need;
  need.evaluations = num_evaluations(config);
  const double rows =
      K / static_cast<double>(eval.train_stride) + phases * K / static_cast<double>(eval.validation_stride) + static_cast<double>(eval.novel);
  need.eval = (need.evaluations + occurrences<SwapTestEvent>(config)) * rows * 24;  // presentations, last_seen, loss, accuracy
  if (eval.completion) need.eval += need.evaluations * rows;
  if (eval.by_position) need.eval += need.evaluations * 8 * L * static_cast<double>(rank_bins(config.data.num_sequences).size()) * (2 + phases);
  need.attention = need.evaluations * attention_bytes(config);
  need.features = features_bytes(config);
  need.checkpoints = (3 * bytes_of_weights(config) + 16 * K * phases) * static_cast<double>(config.output.keep + 1);
  need.weights = bytes_of_weights(config) * (1 + occurrences<SnapshotEvent>(config));
  need.sequences = config.output.sequences ? phases * K * L : 0;
  need.pickles = pickle_bytes(config);
  return need;
}

}  // namespace mnemo
