#pragma once

#include "experiments/config/config.h"

namespace mnemo {

/// Bytes that a run writes at most, by kind; pickles are estimated.
struct DiskNeed {
  double evaluations = 0;  ///< number of evaluations at most
  double eval = 0, attention = 0, features = 0, checkpoints = 0, weights = 0, sequences = 0, pickles = 0;

  double total() const { return eval + attention + features + checkpoints + weights + sequences + pickles; }
};

DiskNeed disk_need(const RunConfig& config);

}  // namespace mnemo
