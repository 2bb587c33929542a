#include "experiments/theory.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace mnemo {

namespace {

/// Distinct sequences in lexicographic order; string i is shared by order[first[i] .. first[i+1]).
struct DistinctSequences {
  std::vector<std::size_t> first;
  std::vector<double> mass;

  DistinctSequences(const SequenceTable& table, std::span<const double> probability) {
    const auto order = table.order();
    for (std::size_t i = 0; i < order.size(); ++i) {
      if (i == 0 || table.common_prefix(order[i - 1], order[i]) < table.length()) {
        first.push_back(i);
        mass.push_back(0);
      }
      mass.back() += probability[static_cast<std::size_t>(order[i])];
    }
    first.push_back(order.size());
  }
};

double minus_p_log_p(double p) { return p > 0 ? -p * std::log(p) : 0; }

}  // namespace

Theory bayes(const SequenceTable& table, std::span<const double> probability, std::int64_t first_position, bool of_sequences,
             const Poll& poll) {
  const DistinctSequences distinct(table, probability);
  const auto order = table.order();
  const auto num_distinct = distinct.mass.size();
  const double predictions = static_cast<double>(table.length() - first_position);
  std::vector<double> loss(num_distinct), right(num_distinct, predictions);
  Theory theory;

  // Groups [begin, end) of distinct sequences that share `prefix` bits. A sequence alone with its prefix is certain.
  struct Group { std::size_t begin, end; std::int64_t prefix; };
  std::vector<Group> groups{{0, num_distinct, 0}};
  RarePoll rare(poll);
  while (!groups.empty()) {
    const auto [begin, end, prefix] = groups.back();
    groups.pop_back();
    rare(end - begin);
    if (end - begin == 1) {
      theory.retrieval += static_cast<double>(table.length() - std::max(prefix, first_position));
      continue;
    }
    auto middle = begin;  // the first that goes on with 1
    double mass[2] = {0, 0};
    for (auto i = begin; i < end; ++i) {
      const bool next = table.bit(order[distinct.first[i]], prefix);
      if (!next) middle = i + 1;
      mass[next] += distinct.mass[i];
    }
    const double total = mass[0] + mass[1];
    if (prefix == 0) theory.first_bit_entropy = minus_p_log_p(mass[0]) + minus_p_log_p(mass[1]);
    if (prefix >= first_position) {
      theory.retrieval += 1;  // one of the group is named
      const auto likeliest = *std::max_element(distinct.mass.begin() + static_cast<std::ptrdiff_t>(begin), distinct.mass.begin() + static_cast<std::ptrdiff_t>(end));
      const auto ties = std::count(distinct.mass.begin() + static_cast<std::ptrdiff_t>(begin), distinct.mass.begin() + static_cast<std::ptrdiff_t>(end), likeliest);
      for (auto i = begin; i < end; ++i) {
        if (of_sequences) {
          loss[i] -= std::log(total > 0 ? distinct.mass[i] / total : 1 / static_cast<double>(end - begin));
          right[i] += distinct.mass[i] == likeliest ? 1 / static_cast<double>(ties) - 1 : -1;
          continue;
        }
        const double p = total > 0 ? mass[i >= middle] / total : 0.5;  // of the true next bit
        loss[i] -= std::log(p);
        right[i] += std::abs(p - 0.5) < 1e-12 ? -0.5 : p > 0.5 ? 0 : -1;
      }
    }
    if (middle > begin) groups.push_back({begin, middle, prefix + 1});
    if (middle < end) groups.push_back({middle, end, prefix + 1});
  }

  theory.loss.resize(order.size());
  theory.accuracy.resize(order.size());
  for (std::size_t i = 0; i < num_distinct; ++i) {
    theory.entropy += minus_p_log_p(distinct.mass[i]);
    if (distinct.mass[i] > 0) theory.mean_loss += distinct.mass[i] * loss[i] / predictions;
    theory.mean_accuracy += distinct.mass[i] * right[i] / predictions;
    for (auto j = distinct.first[i]; j < distinct.first[i + 1]; ++j) {
      theory.loss[static_cast<std::size_t>(order[j])] = loss[i] / predictions;
      theory.accuracy[static_cast<std::size_t>(order[j])] = right[i] / predictions;
    }
  }
  theory.retrieval /= predictions * static_cast<double>(num_distinct);
  return theory;
}

double Theory::mean(const std::vector<double>& per_rank, std::int64_t begin, std::int64_t end) {
  return std::accumulate(per_rank.begin() + begin, per_rank.begin() + end, 0.0) / static_cast<double>(end - begin);
}

double Theory::unweighted_accuracy() const { return mean(accuracy, 0, static_cast<std::int64_t>(accuracy.size())); }

}  // namespace mnemo
