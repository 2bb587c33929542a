#pragma once

// The arithmetic of the binary cross-entropy, in one place for scalars and for the vectors of kernels (models/ops/vector.h). The same in tensors
// is core/loss, the specification.

#include "core/adam_math.h"

#include <cmath>

namespace mnemo {

/// What the cross-entropy needs of V: exp(x) for x <= 0, and log(1 + e) for 0 <= e <= 1. Vectors have their own.
template <class V>
struct UnitMath {
  MNEMO_HOST_DEVICE static V exp(V x) { return std::exp(x); }
  MNEMO_HOST_DEVICE static V log1p(V e) { return std::log1p(e); }
};

/// BCE(z, y) of a logit z and a next bit y, with a = |z| and e = exp(-a), so that nothing overflows:
///   BCE(z, y)     = log1p(e) for the likelier bit (1 where z > 0), log1p(e) + a for the other
///   dBCE(z, 0)/dz = sigmoid(z),  dBCE(z, 1)/dz = -sigmoid(-z),  sigmoid(a) = 1 / (1 + e),  sigmoid(-a) = e / (1 + e)
template <class V>
class Bce {
 public:
  /// `size` is |z|, or a smaller limit that replaces it in the loss.
  MNEMO_HOST_DEVICE Bce(V z, V size) : z_(z), size_(size), e_(UnitMath<V>::exp(-size)) {}
  MNEMO_HOST_DEVICE explicit Bce(V z) : Bce(z, size_of(z)) {}

  MNEMO_HOST_DEVICE static V size_of(V z) { return z < 0 ? -z : z; }
  /// BCE(z, 1), and so BCE(-z, 0); tail = log1p(exp(-|z|)).
  MNEMO_HOST_DEVICE static V of_one(V z, V tail) { return z > 0 ? tail : tail - z; }

  /// w_0 BCE(z, 0) + w_1 BCE(z, 1), its slope by z, and the weight of right predictions, a logit of 0 half right.
  MNEMO_HOST_DEVICE V loss(V zero, V one) const { return (zero + one) * UnitMath<V>::log1p(e_) + (z_ > 0 ? zero : one) * size_; }
  MNEMO_HOST_DEVICE V slope(V zero, V one) const {
    const V likelier = 1 / (1 + e_), other = e_ * likelier;
    return zero * (z_ > 0 ? likelier : other) - one * (z_ > 0 ? other : likelier);
  }
  MNEMO_HOST_DEVICE V right(V zero, V one) const { return z_ > 0 ? one : z_ < 0 ? zero : (zero + one) / 2; }

 private:
  V z_, size_, e_;
};

}  // namespace mnemo
