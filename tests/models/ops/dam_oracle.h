#pragma once

// The dense associative memory in loops, letter by letter from its definition (MATHS 4): probabilities over M slots, duplicates and all, and
// the chain rule through them. Shares nothing with the product.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <vector>

namespace mnemo::oracle {

using Bits = std::vector<std::vector<int>>;  // rows of 0 and 1

template <class Real>
struct Dam {
  std::size_t H, L;
  Real eta;
  std::vector<Real> A_logits, B_logits;  // (L, H, L), (H, L)

  /// Softmax of the first n entries.
  static std::vector<Real> softmax(const Real* x, std::size_t n) {
    std::vector<Real> p(n);
    const Real maximum = *std::max_element(x, x + n);
    Real sum = 0;
    for (std::size_t i = 0; i < n; ++i) sum += p[i] = std::exp(x[i] - maximum);
    for (auto& value : p) value /= sum;
    return p;
  }
  /// -inf of none.
  static Real log_sum_exp(const std::vector<Real>& x) {
    if (x.empty()) return -std::numeric_limits<Real>::infinity();
    const Real maximum = *std::max_element(x.begin(), x.end());
    Real sum = 0;
    for (const auto value : x) sum += std::exp(value - maximum);
    return maximum + std::log(sum);
  }
  std::vector<Real> A(std::size_t n, std::size_t h) const { return softmax(&A_logits[(n * H + h) * L], n); }
  std::vector<Real> B(std::size_t h) const { return softmax(&B_logits[h * L], L); }
};

template <class Real>
struct DamAnswer {
  std::vector<Real> probability;        // (B, L) of next bit 1
  std::vector<Real> loss_per_position;  // (B, L)
  Real loss = 0, accuracy = 0;          // means over rows and positions n >= first
  std::vector<Real> dA_logits, dB_logits;
};

enum class DamLoss { exact, clamped, retrieval };

/// Rows weigh the same. For retrieval `index` names the slot of each row.
template <class Real>
DamAnswer<Real> answer(const Dam<Real>& dam, const Bits& slots, const Bits& rows, std::size_t first, DamLoss kind,
                       const std::vector<std::size_t>& index = {}) {
  const auto H = dam.H, L = dam.L, M = slots.size();
  DamAnswer<Real> answer;
  answer.dA_logits.assign(dam.A_logits.size(), 0);
  answer.dB_logits.assign(dam.B_logits.size(), 0);
  std::vector<std::vector<Real>> B, dB(H, std::vector<Real>(L, 0)), phi(M, std::vector<Real>(H, 0));
  for (std::size_t h = 0; h < H; ++h) B.push_back(dam.B(h));
  const auto sign = [](int bit) { return bit == 1 ? Real(1) : Real(-1); };
  for (std::size_t mu = 0; mu < M; ++mu) {
    for (std::size_t h = 0; h < H; ++h) {
      for (std::size_t j = 0; j < L; ++j) phi[mu][h] += B[h][j] * sign(slots[mu][j]);
    }
  }
  const Real weight = Real(1) / static_cast<Real>(rows.size() * (L - first));
  for (std::size_t b = 0; b < rows.size(); ++b) {
    for (std::size_t n = 0; n < L; ++n) {
      std::vector<std::vector<Real>> A;
      std::vector<Real> phi_hat(H, 0), s(M, 0);
      for (std::size_t h = 0; h < H && n > 0; ++h) {
        A.push_back(dam.A(n, h));
        for (std::size_t i = 0; i < n; ++i) phi_hat[h] += A[h][i] * sign(rows[b][i]);
      }
      for (std::size_t mu = 0; mu < M; ++mu) {
        for (std::size_t h = 0; h < H; ++h) s[mu] += dam.eta * phi_hat[h] * phi[mu][h];
      }
      const auto pi = M > 0 ? Dam<Real>::softmax(s.data(), M) : std::vector<Real>{};
      std::vector<Real> truth;  // scores of the slots that say the truth
      std::vector<std::size_t> true_slots;
      Real p = M > 0 ? 0 : Real(0.5);  // of +1
      for (std::size_t mu = 0; mu < M; ++mu) {
        if (slots[mu][n] == 1) p += pi[mu];
        const bool agrees = kind == DamLoss::retrieval ? mu == index[b] : slots[mu][n] == rows[b][n];
        if (agrees) truth.push_back(s[mu]), true_slots.push_back(mu);
      }
      // by its logarithm: with scores of 1e4 the probability of the truth is 0 in any floating-point type
      const Real log_right = M > 0 ? Dam<Real>::log_sum_exp(truth) - Dam<Real>::log_sum_exp(s) : -std::log(Real(2));
      const Real right = std::exp(log_right);
      Real loss = -log_right;
      bool flat = M == 0;
      if (kind == DamLoss::exact) flat |= loss > 100, loss = std::min(loss, Real(100));
      if (kind == DamLoss::clamped) {
        flat |= right < Real(1e-6) || right > 1 - Real(1e-6);
        loss = -std::log(std::clamp(right, Real(1e-6), Real(1) - Real(1e-6)));
      }
      answer.probability.push_back(p);
      answer.loss_per_position.push_back(loss);
      if (n < first) continue;
      answer.loss += weight * loss;
      if (kind == DamLoss::retrieval) {
        std::size_t above = 0, equal = 0;
        for (const auto other : s) above += other > s[index[b]], equal += other == s[index[b]];
        answer.accuracy += above > 0 ? 0 : weight / static_cast<Real>(equal);
      } else {
        const Real likely = rows[b][n] == 1 ? p : 1 - p;
        answer.accuracy += weight * (std::abs(likely - Real(0.5)) < Real(1e-6) ? Real(0.5) : likely > Real(0.5) ? 1 : 0);
      }
      if (flat || n == 0) continue;
      // -d log_right / ds: probabilities among all slots less those among the slots that say the truth
      std::vector<Real> slope = pi;
      const auto among_true = Dam<Real>::softmax(truth.data(), truth.size());
      for (std::size_t i = 0; i < truth.size(); ++i) slope[true_slots[i]] -= among_true[i];
      std::vector<Real> dphi_hat(H, 0);
      for (std::size_t mu = 0; mu < M; ++mu) {
        const Real ds = weight * slope[mu];
        for (std::size_t h = 0; h < H; ++h) {
          dphi_hat[h] += dam.eta * ds * phi[mu][h];
          for (std::size_t j = 0; j < L; ++j) dB[h][j] += dam.eta * ds * phi_hat[h] * sign(slots[mu][j]);
        }
      }
      for (std::size_t h = 0; h < H; ++h) {
        Real along = 0;
        for (std::size_t i = 0; i < n; ++i) along += A[h][i] * dphi_hat[h] * sign(rows[b][i]);
        for (std::size_t i = 0; i < n; ++i) {
          answer.dA_logits[(n * H + h) * L + i] += A[h][i] * (dphi_hat[h] * sign(rows[b][i]) - along);
        }
      }
    }
  }
  for (std::size_t h = 0; h < H; ++h) {
    Real along = 0;
    for (std::size_t j = 0; j < L; ++j) along += B[h][j] * dB[h][j];
    for (std::size_t j = 0; j < L; ++j) answer.dB_logits[h * L + j] += B[h][j] * (dB[h][j] - along);
  }
  return answer;
}

}  // namespace mnemo::oracle
