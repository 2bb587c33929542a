#pragma once

#include "core/sequences.h"
#include "experiments/run/theory.h"

#include <cstdint>
#include <vector>

namespace mnemo {

/// The sequences a run trains on from `begin` on, and how often and when each was drawn while they were current.
struct Phase {
  SequenceTable table;
  Theory theory;
  std::int64_t begin;                       ///< step of the switch
  std::vector<std::int64_t> presentations;  ///< (K) draws
  std::vector<std::int64_t> last_seen;      ///< (K) number of the update that drew it last, counting from 1; -1 never
};

}  // namespace mnemo
