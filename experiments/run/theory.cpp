#include "experiments/run/theory.h"

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

double minus_p_log_p(double p) { return p > 0 && p < 1 ? -p * std::log(p) : 0; }

/// Sums of loss and of wrong predictions over the ranks of each bin, by position.
class PositionSums {
 public:
  PositionSums(std::span<const std::pair<std::int64_t, std::int64_t>> bins, std::int64_t positions)
      : bins_(bins), positions_(static_cast<std::size_t>(positions)), sums_(2 * bins.size() * positions_) {}

  void add(std::span<const std::int32_t> ranks, std::int64_t position, double loss, double wrong) {
    if (bins_.empty()) return;
    for (const auto rank : ranks) {
      const auto bin =
          static_cast<std::size_t>(std::find_if(bins_.begin(), bins_.end(), [&](const auto& b) { return rank < b.second; }) - bins_.begin());
      const auto at = 2 * (bin * positions_ + static_cast<std::size_t>(position));
      sums_[at] += loss;
      sums_[at + 1] += wrong;
    }
  }
  /// Losses and accuracies.
  std::vector<double> means() const {
    auto means = sums_;
    for (std::size_t i = 0; i < means.size(); ++i) {
      const auto& [begin, end] = bins_[i / (2 * positions_)];
      means[i] /= static_cast<double>(end - begin);
      if (i % 2 == 1) means[i] = 1 - means[i];
    }
    return means;
  }

 private:
  std::span<const std::pair<std::int64_t, std::int64_t>> bins_;
  std::size_t positions_;
  std::vector<double> sums_;
};

}  // namespace

Theory bayes(const SequenceTable& table, std::span<const double> probability, std::int64_t first_predicted_bit, bool of_sequences,
             std::span<const std::pair<std::int64_t, std::int64_t>> bins, const Poll& poll) {
  const DistinctSequences distinct(table, probability);
  const auto order = table.order();
  const auto num_distinct = distinct.mass.size();
  const double predictions = static_cast<double>(table.length() - first_predicted_bit);
  std::vector<double> loss(num_distinct), right(num_distinct, predictions);
  PositionSums position_sums(bins, table.length() - first_predicted_bit);
  Theory theory;

  // Groups [begin, end) of distinct sequences that share `prefix` bits. A sequence alone with its prefix is certain.
  struct Group {
    std::size_t begin, end;
    std::int64_t prefix;
  };
  std::vector<Group> groups{{0, num_distinct, 0}};
  RarePoll rare(poll);
  while (!groups.empty()) {
    const auto [begin, end, prefix] = groups.back();
    groups.pop_back();
    rare(end - begin);
    if (end - begin == 1) {
      theory.retrieval += static_cast<double>(table.length() - std::max(prefix, first_predicted_bit));
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
    if (prefix >= first_predicted_bit) {
      theory.retrieval += 1;  // one of the group is named right
      const auto likeliest =
          *std::max_element(distinct.mass.begin() + static_cast<std::ptrdiff_t>(begin), distinct.mass.begin() + static_cast<std::ptrdiff_t>(end));
      const auto ties =
          std::count(distinct.mass.begin() + static_cast<std::ptrdiff_t>(begin), distinct.mass.begin() + static_cast<std::ptrdiff_t>(end), likeliest);
      for (auto i = begin; i < end; ++i) {
        double p, wrong;  // probability of the truth; share of the prediction that is wrong
        if (of_sequences) {
          p = total > 0 ? distinct.mass[i] / total : 1 / static_cast<double>(end - begin);
          wrong = distinct.mass[i] == likeliest ? 1 - 1 / static_cast<double>(ties) : 1;
        } else {
          p = total > 0 ? mass[i >= middle] / total : 0.5;
          wrong = std::abs(p - 0.5) < 1e-12 ? 0.5 : p > 0.5 ? 0 : 1;
        }
        const double nats = -std::log(p);
        loss[i] += nats;
        right[i] -= wrong;
        position_sums.add(order.subspan(distinct.first[i], distinct.first[i + 1] - distinct.first[i]), prefix - first_predicted_bit, nats, wrong);
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
  theory.by_position = position_sums.means();
  return theory;
}

double Theory::mean(const std::vector<double>& per_rank, std::int64_t begin, std::int64_t end) {
  return std::accumulate(per_rank.begin() + begin, per_rank.begin() + end, 0.0) / static_cast<double>(end - begin);
}

double Theory::unweighted_accuracy() const { return mean(accuracy, 0, static_cast<std::int64_t>(accuracy.size())); }

}  // namespace mnemo
