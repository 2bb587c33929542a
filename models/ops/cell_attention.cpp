#include "models/ops/cell_attention.h"

#include "models/ops/small_gemm.h"

#include <limits>

// One head of one row at a time, in blocks of queries: keys and values of a row, and a block's scores, stay in the first caches. P positions, F
// features of a head, padded to whole vectors.

namespace mnemo {

namespace {

constexpr std::int64_t kQueries = 12;  // of a block; a multiple of kTileRows
constexpr std::int64_t kGroup = 16;    // rows that one thread takes one after another

/// to[0..count) = from[0..count) times `scale`; `from` need not be aligned, whole vectors of `to` are written.
template <class Real>
void load_row(Real* to, const Real* from, std::int64_t count, Real scale = 1) {
  for (std::int64_t c = 0; c < count; c += kLanes<Real>) store(to + c, load_lanes(from + c, count - c) * scale);
}

/// Takes the keys after the visible ones out of a query's scores, in whole vectors.
template <class Real>
void hide(Real* scores, std::int64_t visible, std::int64_t keys) {
  Vec<Real> lane;
  for (int i = 0; i < kLanes<Real>; ++i) lane[i] = static_cast<Real>(i);
  for (auto key = visible / kLanes<Real> * kLanes<Real>; key < keys; key += kLanes<Real>) {
    store(scores + key, lane < static_cast<Real>(visible - key) ? load(scores + key) : broadcast(-std::numeric_limits<Real>::infinity()));
  }
}

/// The first position whose cell the row is the first to hold.
std::int64_t first_own(const CellRows& rows, std::int64_t row) { return rows.positions - (rows.first_cell[row + 1] - rows.first_cell[row]); }

std::int64_t end_of(const CellRows& rows, std::int64_t group) { return std::min((group + 1) * kGroup, rows.rows); }

/// One head of the rows of a group, one row after another.
template <class Real>
class HeadOfRows {
 public:
  explicit HeadOfRows(const CellRows& rows);

  void forward(std::int64_t group, std::int64_t head, const Real* qkv, Real* attended, Real* log_sum);
  /// `shared` [P, 3C] receives what the group adds to the keys and values of cells that earlier groups hold.
  void backward(std::int64_t group, std::int64_t head, const Real* qkv, const Real* attended, const Real* log_sum, const Real* dattended, Real* dqkv,
                Real* shared);

 private:
  const Real* input(const Real* qkv, std::int64_t row, std::int64_t position) const { return qkv + at_.input[row * P_ + position] * 3 * width_; }
  void load_keys(std::int64_t row, const Real* qkv);
  void load_queries(std::int64_t row, std::int64_t position, std::int64_t n, const Real* qkv);
  template <class See>
  void for_blocks(std::int64_t row, const See& see) const;
  Real softmax(Real* scores, std::int64_t visible, std::int64_t keys, Real& log_sum) const;
  void score_gradients(Real* scores, Real* products, std::int64_t visible, std::int64_t keys, Real log_sum, Real projection) const;
  /// Writes a row of F to unaligned memory and clears it.
  void hand_over(Real* from, Real* to) const {
    for (std::int64_t column = 0; column < F_; column += kLanes<Real>) {
      store_lanes<Real>(to + column, load(from + column), F_ - column);
      store(from + column, Vec<Real>{});
    }
  }
  void flush(std::int64_t row, std::int64_t from, Real* dqkv, Real* shared);

  // Products, apart from what follows them, so that their sums stay in registers.
  /// out[q][j] = rows[q] . the key or value j, n rows.
  [[gnu::noinline]] void with_keys(std::int64_t n, const Matrix<Real>& rows, std::int64_t keys, const Matrix<Real>& transposed,
                                   Matrix<Real>& out) const {
    multiply<Stored::plain>(n, keys, all_of(F_), rows[0], rows.stride(), transposed[0], transposed.stride(),
                            [&](auto q, auto key, auto sums) { store(out[q] + key, sums); });
  }
  /// finish(query, feature, sums) of sums over keys.
  template <class Finish>
  void over_keys(std::int64_t n, const Matrix<Real>& weights, std::int64_t keys, const Matrix<Real>& of_keys, const Finish& finish) const {
    multiply<Stored::plain>(n, F_, all_of(keys), weights[0], weights.stride(), of_keys[0], of_keys.stride(), finish);
  }
  /// of_keys += weights^T rows.
  [[gnu::noinline]] void add_over_queries(std::int64_t n, const Matrix<Real>& weights, std::int64_t keys, const Matrix<Real>& rows,
                                          Matrix<Real>& of_keys) const {
    multiply<Stored::transposed>(keys, F_, all_of(n), weights[0], weights.stride(), rows[0], rows.stride(),
                                 [&](auto key, auto column, auto sum) { store(of_keys[key] + column, load(of_keys[key] + column) + sum); });
  }

  const CellRows& at_;
  std::int64_t P_, F_, width_;
  Real scale_;
  Matrix<Real> keys_, values_, keys_transposed_, values_transposed_;  // [P, F], [F, P]
  Matrix<Real> dkeys_, dvalues_;                                      // [P, F], of the row's cells so far
  Matrix<Real> queries_, doutputs_, output_;                          // [n, F], [1, F]; queries over sqrt(F)
  Matrix<Real> weights_, dscores_;                                    // [n, P]
};

template <class Real>
HeadOfRows<Real>::HeadOfRows(const CellRows& rows)
    : at_(rows), P_(rows.positions), F_(rows.head_dim), width_(rows.heads * F_), scale_(static_cast<Real>(1 / std::sqrt(static_cast<double>(F_)))) {
  const auto P = round_up(P_, kLanes<Real>), F = round_up(F_, kLanes<Real>);
  for (auto* matrix : {&keys_, &values_, &dkeys_, &dvalues_}) *matrix = {P, F};
  for (auto* matrix : {&keys_transposed_, &values_transposed_}) *matrix = {F, P};
  for (auto* matrix : {&queries_, &doutputs_}) *matrix = {kQueries, F};
  output_ = {1, F};
  for (auto* matrix : {&weights_, &dscores_}) *matrix = {kQueries, P};
}

/// Those that the row before does not have; all, for a group's first row.
template <class Real>
void HeadOfRows<Real>::load_keys(std::int64_t row, const Real* qkv) {
  const auto first = row % kGroup == 0 ? 0 : first_own(at_, row), from = first / kLanes<Real> * kLanes<Real>;
  for (auto position = first; position < P_; ++position) {
    const Real* key = input(qkv, row, position) + width_;
    load_row(keys_[position], key, F_);
    load_row(values_[position], key + width_, F_);
  }
  transpose(keys_, P_, F_, keys_transposed_, from);
  transpose(values_, P_, F_, values_transposed_, from);
}

template <class Real>
void HeadOfRows<Real>::load_queries(std::int64_t row, std::int64_t position, std::int64_t n, const Real* qkv) {
  for (std::int64_t q = 0; q < n; ++q) load_row(queries_[q], input(qkv, row, position + q), F_, scale_);
}

/// see(position, n, cell) for each block of the row's own cells.
template <class Real>
template <class See>
void HeadOfRows<Real>::for_blocks(std::int64_t row, const See& see) const {
  const auto first = first_own(at_, row);
  for (auto position = first; position < P_; position += kQueries) {
    see(position, std::min(kQueries, P_ - position), at_.first_cell[row] + position - first);
  }
}

/// Scores of a query become exp(score - maximum), 0 for keys after the visible ones; returns 1 over their sum.
template <class Real>
Real HeadOfRows<Real>::softmax(Real* scores, std::int64_t visible, std::int64_t keys, Real& log_sum) const {
  hide(scores, visible, keys);
  auto largest = load(scores);
  for (auto key = kLanes<Real>; key < visible; key += kLanes<Real>) largest = max<Real>(largest, load(scores + key));
  const Real maximum = max_lanes(largest)[0];
  Vec<Real> sums{};
  for (std::int64_t key = 0; key < keys; key += kLanes<Real>) {
    const auto weight = exp(load(scores + key) - maximum);
    store(scores + key, weight);
    sums += weight;
  }
  const Real sum = sum_lanes(sums)[0];
  log_sum = maximum + std::log(sum);
  return 1 / sum;
}

/// Scores of a query become its weights; products do . v become the gradients of the scores.
template <class Real>
void HeadOfRows<Real>::score_gradients(Real* scores, Real* products, std::int64_t visible, std::int64_t keys, Real log_sum, Real projection) const {
  hide(scores, visible, keys);
  for (std::int64_t key = 0; key < keys; key += kLanes<Real>) {
    const auto weight = exp(load(scores + key) - log_sum);
    store(scores + key, weight);
    store(products + key, weight * (load(products + key) - projection));
  }
}

template <class Real>
void HeadOfRows<Real>::forward(std::int64_t group, std::int64_t head, const Real* qkv, Real* attended, Real* log_sum) {
  const auto H = at_.heads, column_of_head = head * F_;
  for (auto row = group * kGroup; row < end_of(at_, group); ++row) {
    load_keys(row, qkv + column_of_head);
    for_blocks(row, [&](std::int64_t position, std::int64_t n, std::int64_t cell) {
      const auto keys = position + n;
      load_queries(row, position, n, qkv + column_of_head);
      with_keys(n, queries_, keys, keys_transposed_, weights_);
      Real inverse[kQueries];
      for (std::int64_t q = 0; q < n; ++q) inverse[q] = softmax(weights_[q], position + q + 1, keys, log_sum[(cell + q) * H + head]);
      over_keys(n, weights_, keys, values_, [&](auto q, auto column, auto sums) {
        store_lanes<Real>(attended + (cell + q) * width_ + column_of_head + column, sums * inverse[q], F_ - column);
      });
    });
  }
}

/// With p the weights and D_i = do_i . o_i: ds_ij = p_ij (do_i . v_j - D_i); dv_j, dk_j and dq_i are sums of p_ij do_i, ds_ij q_i and ds_ij k_j.
template <class Real>
void HeadOfRows<Real>::backward(std::int64_t group, std::int64_t head, const Real* qkv, const Real* attended, const Real* log_sum,
                                const Real* dattended, Real* dqkv, Real* shared) {
  const auto H = at_.heads, column_of_head = head * F_, begin = group * kGroup, end = end_of(at_, group);
  for (auto row = begin; row < end; ++row) {
    if (row > begin) flush(row - 1, first_own(at_, row), dqkv + column_of_head, shared + column_of_head);
    load_keys(row, qkv + column_of_head);
    for_blocks(row, [&](std::int64_t position, std::int64_t n, std::int64_t cell) {
      const auto keys = position + n;
      load_queries(row, position, n, qkv + column_of_head);
      for (std::int64_t q = 0; q < n; ++q) load_row(doutputs_[q], dattended + (cell + q) * width_ + column_of_head, F_);
      with_keys(n, queries_, keys, keys_transposed_, weights_);
      with_keys(n, doutputs_, keys, values_transposed_, dscores_);
      for (std::int64_t q = 0; q < n; ++q) {
        load_row(output_[0], attended + (cell + q) * width_ + column_of_head, F_);
        Vec<Real> products{};
        for (std::int64_t f = 0; f < F_; f += kLanes<Real>) products += load(doutputs_[q] + f) * load(output_[0] + f);
        score_gradients(weights_[q], dscores_[q], position + q + 1, keys, log_sum[(cell + q) * H + head], sum_lanes(products)[0]);
      }
      add_over_queries(n, weights_, keys, doutputs_, dvalues_);
      add_over_queries(n, dscores_, keys, queries_, dkeys_);
      over_keys(n, dscores_, keys, keys_, [&](auto q, auto column, auto sums) {
        store_lanes<Real>(dqkv + (cell + q) * 3 * width_ + column_of_head + column, sums * scale_, F_ - column);
      });
    });
  }
  flush(end - 1, 0, dqkv + column_of_head, shared + column_of_head);
}

/// Writes the gradients of keys and values of a row from a position on, to which later rows of the group add nothing, and clears them.
template <class Real>
void HeadOfRows<Real>::flush(std::int64_t row, std::int64_t from, Real* dqkv, Real* shared) {
  const auto first_of_group = at_.first_cell[row / kGroup * kGroup];
  for (auto position = from; position < P_; ++position) {
    const auto cell = at_.cell[row * P_ + position];
    Real* to = (cell >= first_of_group ? dqkv + cell * 3 * width_ : shared + position * 3 * width_) + width_;
    hand_over(dkeys_[position], to);
    hand_over(dvalues_[position], to + width_);
  }
}

/// body(work space, group, head) for all, by all threads.
template <class Real, class Body>
void for_heads(const CellRows& rows, int threads, const Body& body) {
  const auto groups = (rows.rows + kGroup - 1) / kGroup;
#pragma omp parallel num_threads(threads)
  {
    HeadOfRows<Real> work(rows);
#pragma omp for schedule(dynamic)
    for (std::int64_t task = 0; task < groups * rows.heads; ++task) body(work, task / rows.heads, task % rows.heads);
  }
}

}  // namespace

template <class Real>
void attend_cells(const CellRows& rows, const Real* qkv_M3C, Real* attended_NC, Real* log_sum_NH, int threads) {
  for_heads<Real>(rows, threads, [&](auto& work, auto group, auto head) { work.forward(group, head, qkv_M3C, attended_NC, log_sum_NH); });
}

template <class Real>
void attend_cells_backward(const CellRows& rows, const Real* qkv_M3C, const Real* attended_NC, const Real* log_sum_NH, const Real* dattended_NC,
                           Real* dqkv_N3C, int threads) {
  const auto C = rows.heads * rows.head_dim, P = rows.positions;
  std::vector<Real> shared(static_cast<std::size_t>((rows.rows + kGroup - 1) / kGroup * P * 3 * C));
  for_heads<Real>(rows, threads, [&](auto& work, auto group, auto head) {
    work.backward(group, head, qkv_M3C, attended_NC, log_sum_NH, dattended_NC, dqkv_N3C, shared.data() + group * P * 3 * C);
  });
  for (std::int64_t row = 0; row < rows.rows; row += kGroup) {
    for (std::int64_t position = 0; position < first_own(rows, row); ++position) {
      const Real* from = shared.data() + (row / kGroup * P + position) * 3 * C;
      Real* to = dqkv_N3C + rows.cell[row * P + position] * 3 * C;
      for (auto c = C; c < 3 * C; ++c) to[c] += from[c];
    }
  }
}

template void attend_cells(const CellRows&, const float*, float*, float*, int);
template void attend_cells(const CellRows&, const double*, double*, double*, int);
template void attend_cells_backward(const CellRows&, const float*, const float*, const float*, const float*, float*, int);
template void attend_cells_backward(const CellRows&, const double*, const double*, const double*, const double*, double*, int);

}  // namespace mnemo
