#pragma once

#include "models/ops/selected_sums.h"
#include "models/ops/small_gemm.h"

#include <limits>
#include <span>

namespace mnemo {

/// The tensors that attention reads, or their gradients, in PyTorch layout: wte [2, C], wpe [L, C], c_attn.weight [3C,
/// C], c_attn.bias [3C]. C = heads * head_dim; head h owns columns hF..(h+1)F-1.
template <class Real>
struct AttentionTensors {
  Real *wte, *wpe, *weight, *bias;
};

/// Causal softmax attention over binary tokens, exactly, without a dot product or an exponential per sequence
/// (MATHS 2.1).
///
/// Only 2P different tokens (j, c), position j < P = L-1 and bit c, exist. With tables q, k, v = c_attn(wte[c] + wpe[j]):
///   E[h, (i,a), (j,c)] = exp(q[(i,a), h] . k[(j,c), h] / sqrt(F) - row maximum) for j < i, and for (j,c) = (i,a); else 0
///   num[s, h] = sum_j E[h, (i,a), (j,x_sj)] v[(j,x_sj), h]
///   z[s, h] = sum_j E[h, (i,a), (j,x_sj)]
///   o = num / z
/// for a cell s at position i with bit a = x_si. Token (j, c) is row 2 j + c of every table. Heads are padded to whole vectors of Fp columns; a
/// cell's output row is [num, H Fp columns | z, H columns padded to whole vectors].
///
/// The order of calls: project(); weigh() of disjoint ranges of positions, by any threads; attend() of cells in those
/// ranges; scatter() of their gradients; backward() of each range by the thread that scattered it; finish(). The first
/// three alone evaluate.
template <class Real>
class BinaryAttention {
 public:
  /// Buffers of one thread.
  struct Scratch {
    Matrix<Real> values;        ///< E v and E of one (position, bit), or their gradient
    Matrix<Real> pattern_sums;  ///< see selected_sums.h
    Matrix<Real> dkey, dvalue;  ///< [2P, H Fp] gradients of the tables, of the cells that this thread scattered
  };
  /// The guard refuses a row of E if all entries that a sequence sees might lie further than this below its maximum: they would underflow (MATHS
  /// 2.1).
  static constexpr Real kMaxGap = sizeof(Real) == 4 ? 65 : 650;

  BinaryAttention(std::int64_t heads, std::int64_t head_dim, std::int64_t length)
      : heads_(heads),
        head_dim_(head_dim),
        width_(heads * head_dim),
        padded_head_(round_up(head_dim, kLanes<Real>)),
        positions_(length - 1),
        tokens_(2 * positions_),
        padded_tokens_(round_up(tokens_, 8)),
        inputs_(positions_ + 2, width_),
        c_attn_(3 * value_columns(), width_),
        c_attn_transposed_(width_, 3 * value_columns()),
        projected_(positions_ + 2, 3 * value_columns()),
        query_(tokens_, value_columns()),
        key_(tokens_, value_columns()),
        value_(padded_tokens_, value_columns()),
        key_transposed_(value_columns(), padded_tokens_),
        E_(heads * tokens_, padded_tokens_),
        dscore_(heads * tokens_, padded_tokens_),
        dquery_(tokens_, value_columns()) {
    for (std::int64_t c = 0; c < width_; ++c) padded_column_.push_back(c / head_dim * padded_head_ + c % head_dim);
  }

  std::int64_t value_columns() const { return heads_ * padded_head_; }                                      ///< H Fp
  std::int64_t columns() const { return value_columns() + round_up(heads_, kLanes<Real>); }                 ///< of an output row
  std::int64_t padded_column(std::int64_t c) const { return padded_column_[static_cast<std::size_t>(c)]; }  ///< of c < C
  std::int64_t padded_head() const { return padded_head_; }

  Scratch make_scratch() const {
    return {{padded_tokens_, columns()}, {padded_tokens_ / 2 * 4, 4 * kLanes<Real>}, {tokens_, value_columns()}, {tokens_, value_columns()}};
  }

  void project(const AttentionTensors<const Real>& weights);
  [[nodiscard]] bool weigh(std::int64_t begin, std::int64_t end);
  template <int kBits>
  void attend(std::int64_t position, int bit, const Patterns& patterns, std::int64_t n, Real* out, std::int64_t stride, Scratch& scratch) const;
  void begin_backward(std::int64_t begin, std::int64_t end, Scratch& scratch);
  template <int kBits>
  void scatter(std::int64_t position, int bit, const Patterns& patterns, std::int64_t n, const Real* dout, std::int64_t stride, Scratch& scratch);
  void backward(std::int64_t begin, std::int64_t end, Scratch& scratch);
  void finish(std::span<Scratch* const> scratches, const AttentionTensors<Real>& gradients);

 private:
  static constexpr std::int64_t kBlock = 6;  // positions whose rows of E are made by one product

  Real* E(std::int64_t head, std::int64_t token) { return E_[head * tokens_ + token]; }
  const Real* E(std::int64_t head, std::int64_t token) const { return E_[head * tokens_ + token]; }
  Real* dscore(std::int64_t head, std::int64_t token) { return dscore_[head * tokens_ + token]; }
  bool weigh_row(Real* row, std::int64_t position, int bit) const;
  void weigh_values(std::int64_t position, int bit, Matrix<Real>& values) const;

  std::int64_t heads_, head_dim_, width_, padded_head_, positions_, tokens_, padded_tokens_;
  std::vector<std::int64_t> padded_column_;
  Matrix<Real> inputs_;                                // rows wpe[0..P-1], wte[0], wte[1]: c_attn is linear, so P + 2 rows make 2P tokens
  Matrix<Real> c_attn_, c_attn_transposed_;            // heads padded
  Matrix<Real> projected_;                             // c_attn of inputs_; later its gradient
  Matrix<Real> query_, key_, value_, key_transposed_;  // query divided by sqrt(F)
  Matrix<Real> E_, dscore_;                            // [H, 2P, 2P]: E, and the gradient by E, then by its exponent
  Matrix<Real> dquery_;
};

/// The tables q, k, v of all tokens.
template <class Real>
void BinaryAttention<Real>::project(const AttentionTensors<const Real>& weights) {
  for (std::int64_t j = 0; j < positions_; ++j) std::copy_n(weights.wpe + j * width_, width_, inputs_[j]);
  for (std::int64_t c = 0; c < 2; ++c) std::copy_n(weights.wte + c * width_, width_, inputs_[positions_ + c]);
  const auto columns = value_columns();
  for (std::int64_t part = 0; part < 3; ++part) {
    for (std::int64_t c = 0; c < width_; ++c) {
      const auto padded = part * columns + padded_column(c);
      const Real* row = weights.weight + (part * width_ + c) * width_;
      std::copy_n(row, width_, c_attn_[padded]);
      for (std::int64_t k = 0; k < width_; ++k) c_attn_transposed_[k][padded] = row[k];
    }
  }
  multiply<Stored::plain>(positions_ + 2, 3 * columns, all_of(width_), inputs_[0], inputs_.stride(), c_attn_transposed_[0],
                          c_attn_transposed_.stride(), [&](auto row, auto column, auto sum) { store(projected_[row] + column, sum); });
  for (std::int64_t c = 0; c < 3 * width_; ++c) {  // the bias belongs to every token: give it to the two bits
    const auto padded = c / width_ * columns + padded_column(c % width_);
    for (std::int64_t bit = 0; bit < 2; ++bit) projected_[positions_ + bit][padded] += weights.bias[c];
  }
  const auto scale = static_cast<Real>(1 / std::sqrt(static_cast<double>(head_dim_)));
  for (std::int64_t token = 0; token < tokens_; ++token) {
    const Real *place = projected_[token / 2], *bit = projected_[positions_ + token % 2];
    for (std::int64_t c = 0; c < columns; ++c) {
      query_[token][c] = (place[c] + bit[c]) * scale;
      key_[token][c] = place[columns + c] + bit[columns + c];
      value_[token][c] = place[2 * columns + c] + bit[2 * columns + c];
      key_transposed_[c][token] = key_[token][c];
    }
  }
}

/// E of the positions [begin, end). False if the guard refuses.
template <class Real>
bool BinaryAttention<Real>::weigh(std::int64_t begin, std::int64_t end) {
  bool safe = true;
  for (std::int64_t head = 0; head < heads_; ++head) {
    const auto first = head * padded_head_;
    for (auto block = begin; block < end; block += kBlock) {
      const auto block_end = std::min(block + kBlock, end);
      multiply<Stored::plain>(2 * (block_end - block), 2 * block_end, all_of(head_dim_), query_[2 * block] + first, query_.stride(),
                              key_transposed_[first], key_transposed_.stride(),
                              [&](auto row, auto column, auto sum) { store(E(head, 2 * block + row) + column, sum); });
      for (auto position = block; position < block_end; ++position) {
        for (int bit = 0; bit < 2; ++bit) safe = weigh_row(E(head, 2 * position + bit), position, bit) && safe;
      }
    }
  }
  return safe;
}

/// Scores to exp(score - maximum), 0 for tokens that the row does not see. A sequence sees its own token and one of
/// each earlier pair, so its largest score is at least max(own, max over pairs of the pair's minimum).
template <class Real>
bool BinaryAttention<Real>::weigh_row(Real* row, std::int64_t position, int bit) const {
  const auto end = round_up(2 * position + 2, 8);
  const Real own = row[2 * position + bit];
  std::fill(row + 2 * position, row + end, -std::numeric_limits<Real>::infinity());
  auto largest = broadcast(own), visible = largest;
  for (std::int64_t token = 0; token < end; token += kLanes<Real>) {
    const auto scores = load(row + token);
    largest = max<Real>(scores, largest);
    visible = max<Real>(min<Real>(scores, swap_neighbours(scores)), visible);
  }
  Real maximum = own, least = own;
  for (std::int64_t lane = 0; lane < kLanes<Real>; ++lane) {
    maximum = std::max(maximum, largest[lane]);
    least = std::max(least, visible[lane]);
  }
  row[2 * position + bit] = own;
  for (std::int64_t token = 0; token < end; token += kLanes<Real>) store(row + token, exp(load(row + token) - maximum));
  return maximum - least <= kMaxGap;
}

/// values[(j,c)] = [E v | E] for the cells at `position` with `bit`.
template <class Real>
void BinaryAttention<Real>::weigh_values(std::int64_t position, int bit, Matrix<Real>& values) const {
  const auto tokens = round_up(2 * position + 2, 8);
  for (std::int64_t head = 0; head < heads_; ++head) {
    const Real* E_row = E(head, 2 * position + bit);
    const auto first = head * padded_head_;
    for (std::int64_t token = 0; token < tokens; ++token) {
      Real* to = values[token];
      for (auto c = first; c < first + padded_head_; c += kLanes<Real>) store(to + c, load(value_[token] + c) * E_row[token]);
      to[value_columns() + head] = E_row[token];
    }
  }
}

/// out[s] = [num | z] for n cells at `position` with `bit`.
template <class Real>
template <int kBits>
void BinaryAttention<Real>::attend(std::int64_t position, int bit, const Patterns& patterns, std::int64_t n, Real* out, std::int64_t stride,
                                   Scratch& scratch) const {
  weigh_values(position, bit, scratch.values);
  sum_selected<kBits>(patterns, n, (position + kBits) / kBits, columns(), scratch.values[0], scratch.values.stride(), out, stride,
                      scratch.pattern_sums[0]);
}

/// Clears the gradients of the positions [begin, end), and the thread's share of the tables' gradients.
template <class Real>
void BinaryAttention<Real>::begin_backward(std::int64_t begin, std::int64_t end, Scratch& scratch) {
  for (std::int64_t head = 0; head < heads_; ++head) {
    std::fill(dscore(head, 2 * begin), dscore(head, 2 * begin) + 2 * (end - begin) * dscore_.stride(), Real{0});
  }
  scratch.dkey.zero();
  scratch.dvalue.zero();
}

/// From d[num | z] of n cells: dv += E d(E v), dE += d(E v) . v + dz.
template <class Real>
template <int kBits>
void BinaryAttention<Real>::scatter(std::int64_t position, int bit, const Patterns& patterns, std::int64_t n, const Real* dout, std::int64_t stride,
                                    Scratch& scratch) {
  scatter_selected<kBits>(patterns, n, (position + kBits) / kBits, columns(), dout, stride, scratch.values[0], scratch.values.stride(),
                          scratch.pattern_sums[0]);
  for (std::int64_t head = 0; head < heads_; ++head) {
    const Real* E_row = E(head, 2 * position + bit);
    Real* dE_row = dscore(head, 2 * position + bit);
    const auto first = head * padded_head_;
    for (std::int64_t token = 0; token < 2 * position + 2; ++token) {
      const Real* from = scratch.values[token];
      Real* dvalue = scratch.dvalue[token];
      Vec<Real> product{};
      for (auto c = first; c < first + padded_head_; c += kLanes<Real>) {
        const auto weighted = load(from + c);
        product += weighted * load(value_[token] + c);
        store(dvalue + c, load(dvalue + c) + weighted * E_row[token]);
      }
      dE_row[token] += sum_lanes(product)[0] + from[value_columns() + head];
    }
  }
}

/// dG = dE E, dq = dG k, dk = dG^T q (the maximum is a constant) for the rows of the positions [begin, end).
template <class Real>
void BinaryAttention<Real>::backward(std::int64_t begin, std::int64_t end, Scratch& scratch) {
  for (std::int64_t head = 0; head < heads_; ++head) {
    const auto first = head * padded_head_;
    for (auto token = 2 * begin; token < 2 * end; ++token) {
      Real *row = dscore(head, token), *E_row = E(head, token);
      for (std::int64_t t = 0; t < token / 2 * 2 + 2; ++t) row[t] *= E_row[t];
    }
    for (auto block = begin; block < end; block += kBlock) {
      const auto block_end = std::min(block + kBlock, end);
      multiply<Stored::plain>(2 * (block_end - block), padded_head_, all_of(2 * block_end), dscore(head, 2 * block), dscore_.stride(),
                              key_[0] + first, key_.stride(),
                              [&](auto row, auto column, auto sum) { store(dquery_[2 * block + row] + first + column, sum); });
    }
    for (std::int64_t block = 0; block < end; block += kBlock) {
      const auto block_end = std::min(block + kBlock, end), row = std::max(begin, block);
      multiply<Stored::transposed>(2 * (block_end - block), padded_head_, all_of(2 * (end - row)), dscore(head, 2 * row) + 2 * block,
                                   dscore_.stride(), query_[2 * row] + first, query_.stride(),
                                   [&](auto token, auto column, auto sum) { store(scratch.dkey[2 * block + token] + first + column, sum); });
    }
  }
}

/// Adds the gradients of the four tensors: from the tables, summed over threads, through c_attn.
template <class Real>
void BinaryAttention<Real>::finish(std::span<Scratch* const> scratches, const AttentionTensors<Real>& gradients) {
  const auto columns = value_columns();
  const auto scale = static_cast<Real>(1 / std::sqrt(static_cast<double>(head_dim_)));
  auto &dkey = scratches[0]->dkey, &dvalue = scratches[0]->dvalue;
  for (auto* scratch : scratches.subspan(1)) {
    dkey += scratch->dkey;
    dvalue += scratch->dvalue;
  }
  std::fill(projected_[positions_], projected_[positions_] + 2 * projected_.stride(), Real{0});
  const Real scales[] = {scale, 1, 1};
  const Matrix<Real>* tables[] = {&dquery_, &dkey, &dvalue};
  for (std::int64_t part = 0; part < 3; ++part) {
    for (std::int64_t j = 0; j < positions_; ++j) {
      const Real *zero = (*tables[part])[2 * j], *one = (*tables[part])[2 * j + 1];
      const auto first = part * columns;
      for (std::int64_t c = 0; c < columns; ++c) {
        projected_[j][first + c] = (zero[c] + one[c]) * scales[part];
        projected_[positions_][first + c] += zero[c] * scales[part];
        projected_[positions_ + 1][first + c] += one[c] * scales[part];
      }
    }
  }
  for (std::int64_t c = 0; c < 3 * width_; ++c) {
    const auto padded = c / width_ * columns + padded_column(c % width_);
    gradients.bias[c] += projected_[positions_][padded] + projected_[positions_ + 1][padded];
  }
  for (std::int64_t part = 0; part < 3; ++part) {
    for (std::int64_t head = 0; head < heads_; ++head) {
      multiply<Stored::transposed>(head_dim_, width_, all_of(positions_ + 2), projected_[0] + part * columns + head * padded_head_,
                                   projected_.stride(), inputs_[0], inputs_.stride(), [&](auto row, auto column, auto sum) {
                                     const auto out = part * width_ + head * head_dim_ + row;
                                     add_lanes<Real>(gradients.weight + out * width_ + column, sum, width_ - column);
                                   });
    }
  }
  multiply<Stored::plain>(positions_ + 2, width_, all_of(3 * columns), projected_[0], projected_.stride(), c_attn_[0], c_attn_.stride(),
                          [&](auto row, auto column, auto sum) {
                            Real* to = row < positions_ ? gradients.wpe + row * width_ : gradients.wte + (row - positions_) * width_;
                            add_lanes<Real>(to + column, sum, width_ - column);
                          });
}

}  // namespace mnemo
