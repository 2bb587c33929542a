#include "models/ops/dam_retrieval.h"

#include "models/ops/cell_schedule.h"
#include "models/ops/small_gemm.h"
#include "models/ops/softmax_over_stored.h"

#include <fmt/format.h>

#include <limits>
#include <stdexcept>

// Shapes: a tile (a chunk of the schedule) is up to N vectors of cells of one position n, a cell a lane; H heads, L bits, U stored rows.

namespace mnemo {

template <class Real>
class DamRetrieval<Real>::Impl {
 public:
  Impl(const DamShape& shape, int threads);

  Result gradient(const DamTensors<const Real>& weights, const DamTensors<Real>& gradients, std::span<const StoredSequence> memory,
                  const Cells& cells, const SequenceTable& table);
  void logits(const DamTensors<const Real>& weights, std::span<const StoredSequence> memory, const Cells& cells, const SequenceTable& table,
              Real* out);
  void identify(const DamTensors<const Real>& weights, std::span<const StoredSequence> memory, const Cells& cells, const SequenceTable& table,
                Real* loss, Real* accuracy);

 private:
  static constexpr int kMaxVectors = 2;
  static constexpr std::int64_t kMaxWidth = kMaxVectors * kLanes<Real>;

  /// A tile's intermediate results, and a thread's share of the gradient.
  struct Worker {
    Matrix<Real> A, dA;                                    // [H, n] of the current position
    std::vector<std::int32_t> stored[2];                   // rows of the memory by their next bit
    Matrix<Real> cues, phi_hat, query;                     // by lane: zeta [n, width], [H, width], +-q' [2 L, width]
    Matrix<Real> cues_C, phi_hat_C, dphi_hat_C, dquery_C;  // by cell: [width, n], [width, H], [width, H], [width, L]
    Matrix<Real> dquery, dphi_hat;                         // by lane
    Matrix<Real> logit, dlogit;                            // [1, width]
    SoftmaxOverStored<Real> softmax;
    Matrix<Real> dB;  // [H, L]
    Wide<Real> loss{}, right{};
  };
  using Chunk = typename CellSchedule<Real>::Chunk;
  struct Target {  // of retrieval: a row of the batch whose prediction a cell makes
    std::int32_t row;
    Real weight;
  };

  void prepare(const DamTensors<const Real>& weights, std::span<const StoredSequence> memory, const Cells& cells, const SequenceTable& table);
  void sort_targets(const Cells& cells);
  template <class Body, class End>
  void for_tiles(const DamTensors<const Real>& weights, const Body& body, const End& end);
  /// A cell's work in scores against all stored rows, in units of the work on a known bit, as measured (dam.cpp).
  std::int64_t fixed_work() const { return stored_.size() * (shape_.length + 30) / shape_.heads; }
  void begin_position(Worker& worker, const DamTensors<const Real>& weights, std::int64_t n);
  void end_position(Worker& worker, const DamTensors<Real>& gradients, std::int64_t n);

  template <int N>
  void load_tile(Worker& worker, std::int64_t n, const Chunk& tile);
  template <int N, bool kGradient>
  void next_bit(Worker& worker, std::int64_t n);
  template <int N, bool kGradient, class Score>
  void retrieve(Worker& worker, const Cells& cells, const Chunk& tile, const Score& score);
  template <int N>
  void loss(Worker& worker, const Chunk& tile);
  template <int N>
  void backward(Worker& worker, std::int64_t n);

  DamShape shape_;
  StoredPatterns<Real> stored_;
  Matrix<Real> B_;     // [H, L]
  Matrix<Real> zeta_;  // [U, L] +-1, the rows of the batch
  std::int64_t max_rows_ = 0;
  std::int64_t first_predicted_bit_ = 1;
  CellSchedule<Real> schedule_{GroupCells::by_position, kMaxWidth};
  std::vector<std::int32_t> target_begin_;  // of each cell
  std::vector<Target> targets_;
  std::vector<Worker> workers_;
};

namespace {

/// to = softmax of n >= 1 entries, padded to whole vectors with 0.
template <class Real>
void softmax(const Real* from, std::int64_t n, Real* to) {
  const auto padded = round_up(n, kLanes<Real>);
  std::copy(from, from + n, to);
  std::fill(to + n, to + padded, -std::numeric_limits<Real>::infinity());
  Vec<Real> best = load(to), sum{};
  for (std::int64_t i = kLanes<Real>; i < padded; i += kLanes<Real>) best = max<Real>(best, load(to + i));
  Real maximum = best[0];
  for (int lane = 1; lane < kLanes<Real>; ++lane) maximum = std::max(maximum, best[lane]);
  for (std::int64_t i = 0; i < padded; i += kLanes<Real>) {
    const auto e = exp(load(to + i) - maximum);
    sum += e;
    store(to + i, e);
  }
  const auto inverse = 1 / sum_lanes(sum);
  for (std::int64_t i = 0; i < padded; i += kLanes<Real>) store(to + i, load(to + i) * inverse);
}

/// dlogits += p (dp - sum of p dp). p is padded as softmax() pads it, dp with any numbers.
template <class Real>
void add_softmax_backward(const Real* p, const Real* dp, std::int64_t n, Real* dlogits) {
  Vec<Real> sum{};
  for (std::int64_t i = 0; i < n; i += kLanes<Real>) sum += load(p + i) * load(dp + i);
  const Real mean = sum_lanes(sum)[0];
  for (std::int64_t i = 0; i < n; ++i) dlogits[i] += p[i] * (dp[i] - mean);
}

template <class Real>
Vec<Real> log(Vec<Real> x) {
  for (int lane = 0; lane < kLanes<Real>; ++lane) x[lane] = std::log(x[lane]);
  return x;
}

}  // namespace

template <class Real>
DamRetrieval<Real>::Impl::Impl(const DamShape& shape, int threads) : shape_(shape), B_(shape.heads, shape.length) {
  const auto H = shape.heads, L = shape.length, width = kMaxWidth;
  for (int t = 0; t < threads; ++t) {
    auto& worker = workers_.emplace_back();
    worker.A = worker.dA = worker.dB = {H, L};
    worker.cues = worker.dquery = {round_up(L, kLanes<Real>), width};
    worker.query = {2 * round_up(L, kPatternBits), width};
    worker.phi_hat = worker.dphi_hat = {round_up(H, kLanes<Real>), width};
    worker.cues_C = worker.dquery_C = {width, L};
    worker.phi_hat_C = worker.dphi_hat_C = {width, H};
    worker.logit = worker.dlogit = {1, width};
    worker.softmax = {L, width};
  }
}

// ---- once per step

template <class Real>
void DamRetrieval<Real>::Impl::prepare(const DamTensors<const Real>& weights, std::span<const StoredSequence> memory, const Cells& cells,
                                       const SequenceTable& table) {
  const auto H = shape_.heads, L = shape_.length;
  if (memory.empty() || cells.length != L || table.length() != L) {
    throw std::invalid_argument("[dam_retrieval] needs stored sequences, and cells and sequences of the length it was made for");
  }
  stored_.set(memory, L);
  for (std::int64_t h = 0; h < H; ++h) softmax(weights.B_logits + h * L, L, B_[h]);
  if (cells.num_rows() > max_rows_) zeta_ = {max_rows_ = cells.num_rows(), L};
  for (std::int64_t u = 0; u < cells.num_rows(); ++u) {
    for (std::int64_t i = 0; i < L; ++i) zeta_[u][i] = table.bit(cells.ranks[static_cast<std::size_t>(u)], i) ? 1 : -1;
  }
  first_predicted_bit_ = cells.first_predicted_bit;
  schedule_.make(cells, table, static_cast<std::int64_t>(workers_.size()), fixed_work());
  if (shape_.retrieval) sort_targets(cells);
}

/// The rows of each cell.
template <class Real>
void DamRetrieval<Real>::Impl::sort_targets(const Cells& cells) {
  const auto positions = static_cast<std::size_t>(cells.num_positions()), num_cells = cells.row.size();
  target_begin_.assign(num_cells + 1, 0);
  for (const auto cell : cells.cell_of) ++target_begin_[static_cast<std::size_t>(cell) + 1];
  for (std::size_t i = 0; i < num_cells; ++i) target_begin_[i + 1] += target_begin_[i];
  targets_.resize(cells.cell_of.size());
  auto next = target_begin_;
  for (std::size_t i = 0; i < cells.cell_of.size(); ++i) {
    const auto row = i / positions;
    targets_[static_cast<std::size_t>(next[static_cast<std::size_t>(cells.cell_of[i])]++)] = {
        static_cast<std::int32_t>(row), static_cast<Real>(cells.row_weight[row] / static_cast<double>(positions))};
  }
}

/// body<N>(worker, n, tile) for every tile, loaded, in N vectors, and end(worker, n) after each position's; by every thread over its positions.
/// With A(n), n bits are known.
template <class Real>
template <class Body, class End>
void DamRetrieval<Real>::Impl::for_tiles(const DamTensors<const Real>& weights, const Body& body, const End& end) {
  const auto threads = static_cast<int>(workers_.size());
#pragma omp parallel for num_threads(threads) schedule(static, 1) if (threads > 1)
  for (int t = 0; t < threads; ++t) {
    const auto thread = static_cast<std::size_t>(t);
    auto& worker = workers_[thread];
    auto next = schedule_.first_chunk[thread];
    for (auto position = schedule_.first_position[thread]; position < schedule_.first_position[thread + 1]; ++position) {
      const auto n = position + first_predicted_bit_;
      begin_position(worker, weights, n);
      for (; next < schedule_.first_chunk[thread + 1] && schedule_.runs[schedule_.chunks[next].first_run].position == position; ++next) {
        const auto& tile = schedule_.chunks[next];
        const auto in_vectors = [&]<int N>() {
          load_tile<N>(worker, n, tile);
          body.template operator()<N>(worker, n, tile);
        };
        tile.end - tile.begin > kLanes<Real> ? in_vectors.template operator()<2>() : in_vectors.template operator()<1>();
      }
      end(worker, n);
    }
  }
}

// ---- a position

template <class Real>
void DamRetrieval<Real>::Impl::begin_position(Worker& worker, const DamTensors<const Real>& weights, std::int64_t n) {
  const auto H = shape_.heads, L = shape_.length;
  for (std::int64_t h = 0; h < H && n > 0; ++h) softmax(weights.A_logits + (n * H + h) * L, n, worker.A[h]);
  worker.dA.zero();
  for (auto& rows : worker.stored) rows.resize(static_cast<std::size_t>(stored_.size()));
  std::size_t count[2] = {0, 0};
  for (std::int64_t u = 0; u < stored_.size(); ++u) {
    const auto next = shape_.retrieval ? 0 : stored_.bit(u, n);
    worker.stored[next][count[next]++] = static_cast<std::int32_t>(u);
  }
  for (const int next : {0, 1}) worker.stored[next].resize(count[next]);
}

template <class Real>
void DamRetrieval<Real>::Impl::end_position(Worker& worker, const DamTensors<Real>& gradients, std::int64_t n) {
  const auto H = shape_.heads, L = shape_.length;
  for (std::int64_t h = 0; h < H && n > 0; ++h) add_softmax_backward(worker.A[h], worker.dA[h], n, gradients.A_logits + (n * H + h) * L);
}

// ---- a tile

/// Cues zeta, the last cell's again in lanes without a cell, and the query q' = eta B^T A(n) zeta.
template <class Real>
template <int N>
void DamRetrieval<Real>::Impl::load_tile(Worker& worker, std::int64_t n, const Chunk& tile) {
  constexpr auto kWidth = N * kLanes<Real>;
  for (std::int64_t lane = 0; lane < kWidth; ++lane) {
    const auto row = schedule_.row[static_cast<std::size_t>(std::min(tile.begin + lane, tile.end - 1))];
    std::copy_n(zeta_[row], round_up(n, kLanes<Real>), worker.cues_C[lane]);
  }
  transpose(worker.cues_C, kWidth, n, worker.cues);
  const auto into = [](Matrix<Real>& matrix) { return [&matrix](auto row, auto column, auto sum) { store(matrix[row] + column, sum); }; };
  multiply<Stored::plain>(shape_.heads, kWidth, all_of(n), worker.A[0], worker.A.stride(), worker.cues[0], worker.cues.stride(),
                          into(worker.phi_hat));
  const auto eta = static_cast<Real>(shape_.eta);
  multiply<Stored::transposed>(shape_.length, kWidth, all_of(shape_.heads), B_[0], B_.stride(), worker.phi_hat[0], worker.phi_hat.stride(),
                               [&](auto row, auto column, auto sum) {
                                 store(worker.query[2 * row] + column, -eta * sum);
                                 store(worker.query[2 * row + 1] + column, eta * sum);
                               });
  worker.softmax.template set_query<N>(worker.query);
}

/// Logits, and for the gradient E_1[chi] - E_0[chi] in dquery.
template <class Real>
template <int N, bool kGradient>
void DamRetrieval<Real>::Impl::next_bit(Worker& worker, std::int64_t n) {
  if (n == 0) {  // nothing is revealed: the counts decide, as integers, so that a tie is one
    std::int64_t count[2] = {0, 0};
    for (std::int64_t u = 0; u < stored_.size(); ++u) count[stored_.bit(u, 0)] += stored_.count(u);
    std::fill_n(worker.logit[0], kMaxWidth, std::log(static_cast<Real>(count[1])) - std::log(static_cast<Real>(count[0])));
    return;
  }
  LogSumExp<N, Real> total[2];
  if constexpr (kGradient) worker.dquery.zero();
  const bool both = !worker.stored[0].empty() && !worker.stored[1].empty();
  for (const int next : {0, 1}) {
    total[next] = worker.softmax.template pass<N, kGradient, false>(stored_, worker.stored[next]);
    if (kGradient && both) worker.softmax.template add_mean<N>(shape_.length, total[next], Real(next == 1 ? 1 : -1), worker.dquery);
  }
  for (int v = 0; v < N; ++v) {
    store(worker.logit[0] + v * kLanes<Real>, (total[1].maximum[v] - total[0].maximum[v]) + log<Real>(total[1].sum[v] / total[0].sum[v]));
  }
}

/// Loss and accuracy of the tile, and dlogit. Beyond its limit a logit has no slope: clamped, or its loss at most (the likelier bit's is then below
/// exp(-kDamMaxLoss)).
template <class Real>
template <int N>
void DamRetrieval<Real>::Impl::loss(Worker& worker, const Chunk& tile) {
  const auto limit = broadcast(static_cast<Real>(shape_.clamped ? kDamLogitLimit : kDamMaxLoss));
  for (std::int64_t s = 0; s < N * kLanes<Real>; s += kLanes<Real>) {
    const auto z = load(worker.logit[0] + s), zero = load(&schedule_.weight_zero[tile.begin + s]), one = load(&schedule_.weight_one[tile.begin + s]);
    const auto size = Bce<Vec<Real>>::size_of(z);
    const Bce<Vec<Real>> bce(z, min<Real>(size, limit));
    store(worker.dlogit[0] + s, size <= limit ? bce.slope(zero, one) : Vec<Real>{});
    worker.loss += __builtin_convertvector(bce.loss(zero, one), Wide<Real>);
    worker.right += __builtin_convertvector(bce.right(zero, one), Wide<Real>);
  }
}

/// Retrieval. score(lane, target, loss, accuracy) of every row that a cell of the tile stands for. For the gradient: sum of weights times
/// (E[chi] - chi_true) in dquery.
template <class Real>
template <int N, bool kGradient, class Score>
void DamRetrieval<Real>::Impl::retrieve(Worker& worker, const Cells& cells, const Chunk& tile, const Score& score) {
  const auto total = worker.softmax.template pass<N, kGradient, true>(stored_, worker.stored[0]);
  if constexpr (kGradient) {
    worker.dquery.zero();
    worker.softmax.template add_mean<N>(shape_.length, total, Real{1}, worker.dquery);
    for (int v = 0; v < N; ++v) {
      const auto at = v * kLanes<Real>;
      const auto weight = load(&schedule_.weight_zero[tile.begin + at]) + load(&schedule_.weight_one[tile.begin + at]);
      for (std::int64_t j = 0; j < shape_.length; ++j) store(worker.dquery[j] + at, load(worker.dquery[j] + at) * weight);
    }
  }
  for (std::int64_t lane = 0; lane < tile.end - tile.begin; ++lane) {
    const auto cell = static_cast<std::size_t>(schedule_.cell[static_cast<std::size_t>(tile.begin + lane)]);
    const auto v = lane / kLanes<Real>, at = lane % kLanes<Real>;
    const Real log_sum = total.maximum[v][at] + std::log(total.sum[v][at]);
    for (auto i = target_begin_[cell]; i < target_begin_[cell + 1]; ++i) {
      const auto& target = targets_[static_cast<std::size_t>(i)];
      const auto truth = cells.ranks[static_cast<std::size_t>(target.row)];
      const Real s = worker.softmax.template score<N>(stored_, truth, lane);
      score(target, log_sum - s, s == total.maximum[v][at] ? 1 / total.ties[v][at] : Real{0});
      if constexpr (kGradient) {
        for (std::int64_t j = 0; j < shape_.length; ++j) worker.dquery[j][lane] -= stored_.bit(truth, j) ? target.weight : -target.weight;
      }
    }
  }
}

/// From dquery to dA and dB.
template <class Real>
template <int N>
void DamRetrieval<Real>::Impl::backward(Worker& worker, std::int64_t n) {
  constexpr auto kWidth = N * kLanes<Real>;
  const auto H = shape_.heads, L = shape_.length;
  const auto eta = static_cast<Real>(shape_.eta);
  for (std::int64_t j = 0; j < L; ++j) {
    for (std::int64_t s = 0; s < kWidth; s += kLanes<Real>) store(worker.dquery[j] + s, eta * load(worker.dquery[j] + s));
  }
  multiply<Stored::plain>(H, kWidth, all_of(L), B_[0], B_.stride(), worker.dquery[0], worker.dquery.stride(),
                          [&](auto row, auto column, auto sum) { store(worker.dphi_hat[row] + column, sum); });
  transpose(worker.dphi_hat, H, kWidth, worker.dphi_hat_C);
  transpose(worker.phi_hat, H, kWidth, worker.phi_hat_C);
  transpose(worker.dquery, L, kWidth, worker.dquery_C);
  add_transposed_product(kWidth, n, all_of(H), worker.dphi_hat_C[0], worker.dphi_hat_C.stride(), worker.cues_C[0], worker.cues_C.stride(),
                         worker.dA[0], worker.dA.stride());
  add_transposed_product(kWidth, L, all_of(H), worker.phi_hat_C[0], worker.phi_hat_C.stride(), worker.dquery_C[0], worker.dquery_C.stride(),
                         worker.dB[0], worker.dB.stride());
}

// ---- the whole

template <class Real>
auto DamRetrieval<Real>::Impl::gradient(const DamTensors<const Real>& weights, const DamTensors<Real>& gradients,
                                        std::span<const StoredSequence> memory, const Cells& cells, const SequenceTable& table) -> Result {
  prepare(weights, memory, cells, table);
  for (auto& worker : workers_) {
    worker.dB.zero();
    worker.loss = worker.right = Wide<Real>{};
  }
  const auto tile_gradient = [&]<int N>(Worker& worker, std::int64_t n, const Chunk& tile) {
    if (shape_.retrieval) {
      retrieve<N, true>(worker, cells, tile, [&](const Target& target, Real loss, Real accuracy) {
        worker.loss[0] += target.weight * loss;
        worker.right[0] += target.weight * accuracy;
      });
    } else {
      next_bit<N, true>(worker, n);
      loss<N>(worker, tile);
      for (std::int64_t j = 0; j < shape_.length; ++j) {
        for (std::int64_t s = 0; s < N * kLanes<Real>; s += kLanes<Real>)
          store(worker.dquery[j] + s, load(worker.dquery[j] + s) * load(worker.dlogit[0] + s));
      }
    }
    if (n > 0) backward<N>(worker, n);
  };
  for_tiles(weights, tile_gradient, [&](Worker& worker, std::int64_t n) { end_position(worker, gradients, n); });
  Result result{0, 0};
  for (std::size_t t = 0; t < workers_.size(); ++t) {
    if (t > 0) workers_[0].dB += workers_[t].dB;
    for (std::int64_t lane = 0; lane < kLanes<Real>; ++lane) {
      result.loss += workers_[t].loss[lane];
      result.accuracy += workers_[t].right[lane];
    }
  }
  const auto H = shape_.heads, L = shape_.length;
  for (std::int64_t h = 0; h < H; ++h) add_softmax_backward(B_[h], workers_[0].dB[h], L, gradients.B_logits + h * L);
  return result;
}

template <class Real>
void DamRetrieval<Real>::Impl::logits(const DamTensors<const Real>& weights, std::span<const StoredSequence> memory, const Cells& cells,
                                      const SequenceTable& table, Real* out) {
  prepare(weights, memory, cells, table);
  const auto tile_logits = [&]<int N>(Worker& worker, std::int64_t n, const Chunk& tile) {
    next_bit<N, false>(worker, n);
    for (auto slot = tile.begin; slot < tile.end; ++slot) out[schedule_.cell[static_cast<std::size_t>(slot)]] = worker.logit[0][slot - tile.begin];
  };
  for_tiles(weights, tile_logits, [](Worker&, std::int64_t) {});
}

template <class Real>
void DamRetrieval<Real>::Impl::identify(const DamTensors<const Real>& weights, std::span<const StoredSequence> memory, const Cells& cells,
                                        const SequenceTable& table, Real* loss, Real* accuracy) {
  prepare(weights, memory, cells, table);
  const auto tile_scores = [&]<int N>(Worker& worker, std::int64_t n, const Chunk& tile) {
    retrieve<N, false>(worker, cells, tile, [&](const Target& target, Real target_loss, Real target_accuracy) {
      const auto at = target.row * cells.num_positions() + n - first_predicted_bit_;
      loss[at] = target_loss;
      accuracy[at] = target_accuracy;
    });
  };
  for_tiles(weights, tile_scores, [](Worker&, std::int64_t) {});
}

template <class Real>
DamRetrieval<Real>::DamRetrieval(const DamShape& shape, int threads) {
  if (shape.heads < 1 || shape.length < 2 || threads < 1 || !(shape.eta >= 0)) {
    throw std::invalid_argument(
        fmt::format("[dam_retrieval] cannot have H={}, L={}, eta={}, {} threads", shape.heads, shape.length, shape.eta, threads));
  }
  impl_ = std::make_unique<Impl>(shape, threads);
}
template <class Real>
DamRetrieval<Real>::~DamRetrieval() = default;

template <class Real>
auto DamRetrieval<Real>::gradient(const DamTensors<const Real>& weights, const DamTensors<Real>& gradients, std::span<const StoredSequence> memory,
                                  const Cells& cells, const SequenceTable& table) -> Result {
  return impl_->gradient(weights, gradients, memory, cells, table);
}
template <class Real>
void DamRetrieval<Real>::logits(const DamTensors<const Real>& weights, std::span<const StoredSequence> memory, const Cells& cells,
                                const SequenceTable& table, Real* out) {
  impl_->logits(weights, memory, cells, table, out);
}
template <class Real>
void DamRetrieval<Real>::identify(const DamTensors<const Real>& weights, std::span<const StoredSequence> memory, const Cells& cells,
                                  const SequenceTable& table, Real* loss, Real* accuracy) {
  impl_->identify(weights, memory, cells, table, loss, accuracy);
}

template class DamRetrieval<float>;
template class DamRetrieval<double>;

}  // namespace mnemo
