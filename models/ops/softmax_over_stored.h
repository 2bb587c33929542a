#pragma once

#include "models/ops/dam_retrieval.h"
#include "models/ops/selected_sums.h"

#include <array>
#include <limits>

// The softmax of a tile of queries over stored +-1 sequences, like attention with V = K = chi: scores
//   s[mu] = q'.chi_mu + ln count_mu
// their log-sum-exp, and the softmax mean of chi. Both products with chi are sums of pattern tables (selected_sums.h): per group of
// kPatternBits bits the 2^kPatternBits partial sums of +-q' are made once and every stored sequence adds one of them; the transpose adds
// exp(s) to one of as many entries. Stored rows are taken in blocks, with a running maximum (online softmax), so that their number costs no memory.

namespace mnemo {

inline constexpr int kPatternBits = 5;  // 4 and 6 measure slower at L = 50 and 100

/// The stored sequences as patterns, the earliest bit most significant, and the logarithms of their counts.
template <class Real>
class StoredPatterns {
 public:
  void set(std::span<const StoredSequence> memory, std::int64_t length) {
    memory_ = memory;
    patterns_.reset(size(), length, kPatternBits);
    log_count_.resize(memory.size());
    for (std::size_t u = 0; u < memory.size(); ++u) {
      log_count_[u] = memory[u].count == 1 ? Real{0} : std::log(static_cast<Real>(memory[u].count));
      patterns_.set(static_cast<std::int64_t>(u), memory[u].bits);
    }
  }

  std::int64_t size() const { return static_cast<std::int64_t>(memory_.size()); }
  const std::uint8_t* pattern(std::int64_t u) const { return patterns_.of(u); }
  Real log_count(std::int64_t u) const { return log_count_[static_cast<std::size_t>(u)]; }
  std::int64_t count(std::int64_t u) const { return memory_[static_cast<std::size_t>(u)].count; }
  bool bit(std::int64_t u, std::int64_t n) const { return memory_[static_cast<std::size_t>(u)].bits[n / 64] >> (63 - n % 64) & 1; }

 private:
  std::span<const StoredSequence> memory_;
  PatternRows patterns_;
  std::vector<Real> log_count_;
};

/// LSE(s) = maximum + ln sum, by lane; how many rows attain the maximum if asked.
template <int N, class Real>
struct LogSumExp {
  Vec<Real> maximum[N], sum[N], ties[N];
};

/// The passes over stored rows for one tile of queries, and its tables.
template <class Real>
class SoftmaxOverStored {
 public:
  SoftmaxOverStored() = default;
  SoftmaxOverStored(std::int64_t length, std::int64_t max_width)
      : groups_((length + kPatternBits - 1) / kPatternBits),
        scores_(1, kBlock * max_width),
        query_sums_(1, (groups_ << kPatternBits) * max_width),
        exp_sums_(1, (groups_ << kPatternBits) * max_width),
        mean_(2 * groups_ * kPatternBits, max_width) {}

  /// `query`: rows 2 j and 2 j + 1 hold -q'_j and +q'_j of the N vectors of lanes; 0 beyond the length.
  template <int N>
  void set_query(const Matrix<Real>& query) {
    make_pattern_sums<kPatternBits, N>(query[0], query.stride(), groups_, query_sums_[0]);
  }

  /// s[u] of one lane, to the bit as pass() computes it.
  template <int N>
  Real score(const StoredPatterns<Real>& stored, std::int64_t u, std::int64_t lane) const {
    const auto* pattern = stored.pattern(u);
    Real sum = stored.log_count(u);
    for (std::int64_t g = 0; g < groups_; ++g) sum += query_sums_[0][((g << kPatternBits) + pattern[g]) * (N * kLanes<Real>)+lane];
    return sum;
  }

  /// The log-sum-exp over the stored rows listed in `rows`. With kMean, add_mean() may follow.
  template <int N, bool kMean, bool kTies>
  LogSumExp<N, Real> pass(const StoredPatterns<Real>& stored, std::span<const std::int32_t> rows) {
    LogSumExp<N, Real> total;
    for (int v = 0; v < N; ++v) {
      total.maximum[v] = broadcast(-std::numeric_limits<Real>::infinity());
      total.sum[v] = total.ties[v] = Vec<Real>{};
    }
    if constexpr (kMean) std::memset(exp_sums_[0], 0, table_size<N>() * sizeof(Real));
    // rows this far below the heaviest cannot change the sum, even all of them together: half a unit in the last place
    const Real too_light = std::log(std::numeric_limits<Real>::epsilon() / 4 / static_cast<Real>(rows.size() + 1));
    for (std::size_t begin = 0; begin < rows.size(); begin += kBlock) {
      const auto block = rows.subspan(begin, std::min<std::size_t>(kBlock, rows.size() - begin));
      raise_maximum<N, kMean>(score_block<N>(stored, block), total);
      const auto heavy = weigh_block<N, kTies>(block, too_light, total);
      if constexpr (kMean) scatter_block<N>(stored, heavy);
    }
    return total;
  }

  /// to[j] += sign * softmax mean of chi_j, j < length. Destroys what pass() left.
  template <int N>
  void add_mean(std::int64_t length, const LogSumExp<N, Real>& total, Real sign, Matrix<Real>& to) {
    split_pattern_sums<kPatternBits, N>(exp_sums_[0], groups_, mean_[0], mean_.stride());
    for (int v = 0; v < N; ++v) {
      const auto scale = sign / total.sum[v];
      for (std::int64_t j = 0; j < length; ++j) {
        auto* target = to[j] + v * kLanes<Real>;
        const auto zero = load(mean_[2 * j] + v * kLanes<Real>), one = load(mean_[2 * j + 1] + v * kLanes<Real>);
        store(target, load(target) + scale * (one - zero));
      }
    }
  }

 private:
  static constexpr std::size_t kBlock = 128;  // stored rows
  template <int N>
  std::size_t table_size() const {
    return static_cast<std::size_t>((groups_ << kPatternBits) * N * kLanes<Real>);
  }
  template <int N>
  Real* score_of(std::int64_t k) {
    return scores_[0] + k * N * kLanes<Real>;
  }

  /// Scores of a block; returns their maxima.
  template <int N>
  std::array<Vec<Real>, N> score_block(const StoredPatterns<Real>& stored, std::span<const std::int32_t> rows) {
    std::array<Vec<Real>, N> best;
    best.fill(broadcast(-std::numeric_limits<Real>::infinity()));
    const auto row = [&](std::int64_t k) { return rows[static_cast<std::size_t>(k)]; };
    gather_patterns<kPatternBits, N>(
        std::ssize(rows), groups_, static_cast<const Real*>(query_sums_[0]), [&](std::int64_t k) { return stored.pattern(row(k)); },
        [&](std::int64_t k) { return broadcast(stored.log_count(row(k))); },
        [&](std::int64_t k, const Vec<Real>(&score)[N]) {
          for (std::size_t v = 0; v < N; ++v) {
            store(score_of<N>(k) + static_cast<std::int64_t>(v) * kLanes<Real>, score[v]);
            best[v] = max<Real>(best[v], score[v]);
          }
        });
    return best;
  }

  /// If a block's maximum exceeds the running one, scales the sums so far to the new one.
  template <int N, bool kMean>
  void raise_maximum(const std::array<Vec<Real>, N>& best, LogSumExp<N, Real>& total) {
    bool raised = false, begun = false;
    for (std::size_t v = 0; v < N; ++v) {
      raised |= any<Real>(best[v] > total.maximum[v]);
      begun |= any<Real>(total.sum[v] > Real{0});
    }
    if (!raised) return;
    Vec<Real> factor[N];
    for (int v = 0; v < N; ++v) {
      const auto maximum = max<Real>(total.maximum[v], best[static_cast<std::size_t>(v)]);
      factor[v] = begun ? exp(total.maximum[v] - maximum) : Vec<Real>{};
      total.ties[v] = total.maximum[v] == maximum ? total.ties[v] : Vec<Real>{};
      total.maximum[v] = maximum;
      total.sum[v] *= factor[v];
    }
    if (!kMean || !begun) return;
    Real* entry = exp_sums_[0];
    for (const Real* end = entry + table_size<N>(); entry < end; entry += N * kLanes<Real>) {
      for (int v = 0; v < N; ++v) store(entry + v * kLanes<Real>, load(entry + v * kLanes<Real>) * factor[v]);
    }
  }

  /// Adds exp(s - maximum) of a block to the sums; returns the rows that weigh anything in some lane, their weights in place of the scores.
  template <int N, bool kTies>
  std::span<const std::int32_t> weigh_block(std::span<const std::int32_t> rows, Real too_light, LogSumExp<N, Real>& total) {
    std::size_t heavy = 0;
    Vec<Real> sum[N] = {};  // of the block alone: in float32 a million small numbers must not meet one large sum
    for (std::size_t k = 0; k < rows.size(); ++k) {
      Vec<Real> below[N];
      Mask<Real> felt{};
      for (int v = 0; v < N; ++v) {
        below[v] = load(score_of<N>(static_cast<std::int64_t>(k)) + v * kLanes<Real>) - total.maximum[v];
        felt |= below[v] > too_light;
      }
      if (!any<Real>(felt)) continue;
      for (int v = 0; v < N; ++v) {
        const auto weight = exp(below[v]);
        sum[v] += weight;
        if constexpr (kTies) total.ties[v] += below[v] == Real{0} ? broadcast(Real{1}) : Vec<Real>{};
        store(score_of<N>(static_cast<std::int64_t>(heavy)) + v * kLanes<Real>, weight);
      }
      heavy_[heavy++] = rows[k];
    }
    for (int v = 0; v < N; ++v) total.sum[v] += sum[v];
    return {heavy_.data(), heavy};
  }

  /// Adds the weights of a block to the entries that its rows' patterns name.
  template <int N>
  void scatter_block(const StoredPatterns<Real>& stored, std::span<const std::int32_t> rows) {
    scatter_patterns<kPatternBits, N>(
        std::ssize(rows), groups_, exp_sums_[0], [&](std::int64_t k) { return stored.pattern(rows[static_cast<std::size_t>(k)]); },
        [&](std::int64_t k) { return score_of<N>(k); });
  }

  std::int64_t groups_ = 0;
  Matrix<Real> scores_;      // [block, N vectors]
  Matrix<Real> query_sums_;  // [groups, patterns, N vectors]
  Matrix<Real> exp_sums_;    // the same
  Matrix<Real> mean_;        // [2 L, N vectors]
  std::array<std::int32_t, kBlock> heavy_{};
};

}  // namespace mnemo
