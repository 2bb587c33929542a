#pragma once

#include "core/loss_math.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <new>
#include <vector>

// 256-bit vectors of float or double in GCC's vector extension, and 64-byte aligned buffers of them. For files compiled
// for x86-64-v3 only: no header that others include may include this one.

namespace mnemo {

template <class Real>
struct VecOf {
  typedef Real type __attribute__((vector_size(32)));
  typedef double wide __attribute__((vector_size(256 / sizeof(Real))));
};
template <class Real>
using Vec = typename VecOf<Real>::type;
/// As many doubles.
template <class Real>
using Wide = typename VecOf<Real>::wide;
/// What comparing two vectors gives.
template <class Real>
using Mask = decltype(Vec<Real>{} == Vec<Real>{});
template <class Real>
inline constexpr std::int64_t kLanes = 32 / sizeof(Real);

template <class Real>
Vec<Real> load(const Real* from) {
  return *reinterpret_cast<const Vec<Real>*>(from);
}
template <class Real>
void store(Real* to, Vec<Real> value) {
  *reinterpret_cast<Vec<Real>*>(to) = value;
}
template <class Real>
Vec<Real> broadcast(Real value) {
  return value - Vec<Real>{};
}
/// Keeps the compiler from loading the value again at each use.
template <class V>
V in_register(V value) {
  asm("" : "+x"(value));
  return value;
}
template <class Real>
Vec<Real> max(Vec<Real> a, Vec<Real> b) {
  return a > b ? a : b;
}
template <class Real>
Vec<Real> min(Vec<Real> a, Vec<Real> b) {
  return a < b ? a : b;
}
/// max(x, 0), NaN kept.
template <class Real>
Vec<Real> relu(Vec<Real> x) {
  return x < Real{0} ? Vec<Real>{} : x;
}
/// Whether a mask holds in some lane.
template <class Real>
bool any(Mask<Real> mask) {
  if constexpr (sizeof(Real) == 4)
    return __builtin_ia32_movmskps256((Vec<float>)mask) != 0;
  else
    return __builtin_ia32_movmskpd256((Vec<double>)mask) != 0;
}
/// Lanes in pairs: 1 0 3 2 ...
inline Vec<float> swap_neighbours(Vec<float> v) { return __builtin_shufflevector(v, v, 1, 0, 3, 2, 5, 4, 7, 6); }
inline Vec<double> swap_neighbours(Vec<double> v) { return __builtin_shufflevector(v, v, 1, 0, 3, 2); }

/// The first `count` lanes (all, if count is larger) of unaligned memory, 0 in the others.
template <class Real>
Vec<Real> load_lanes(const Real* from, std::int64_t count) {
  Vec<Real> value{};
  if (count >= kLanes<Real>) {
    std::memcpy(&value, from, sizeof value);
  } else {
    for (std::int64_t lane = 0; lane < count; ++lane) value[lane] = from[lane];
  }
  return value;
}
/// Writes those lanes alone.
template <class Real>
void store_lanes(Real* to, Vec<Real> value, std::int64_t count) {
  if (count >= kLanes<Real>) {
    std::memcpy(to, &value, sizeof value);
  } else {
    for (std::int64_t lane = 0; lane < count; ++lane) to[lane] = value[lane];
  }
}
template <class Real>
void add_lanes(Real* to, Vec<Real> value, std::int64_t count) {
  store_lanes<Real>(to, load_lanes(to, count) + value, count);
}

/// The sum over the lanes, in every lane.
inline Vec<float> sum_lanes(Vec<float> v) {
  v += __builtin_shufflevector(v, v, 4, 5, 6, 7, 0, 1, 2, 3);
  v += __builtin_shufflevector(v, v, 2, 3, 0, 1, 6, 7, 4, 5);
  return v + swap_neighbours(v);
}
inline Vec<double> sum_lanes(Vec<double> v) {
  v += __builtin_shufflevector(v, v, 2, 3, 0, 1);
  return v + swap_neighbours(v);
}

/// The largest lane, in every lane.
inline Vec<float> max_lanes(Vec<float> v) {
  v = max<float>(v, __builtin_shufflevector(v, v, 4, 5, 6, 7, 0, 1, 2, 3));
  v = max<float>(v, __builtin_shufflevector(v, v, 2, 3, 0, 1, 6, 7, 4, 5));
  return max<float>(v, swap_neighbours(v));
}
inline Vec<double> max_lanes(Vec<double> v) {
  v = max<double>(v, __builtin_shufflevector(v, v, 2, 3, 0, 1));
  return max<double>(v, swap_neighbours(v));
}

/// exp(x) for x <= 88 with a relative error below 1e-7; 0 below -87. x = n ln 2 + r, a polynomial of degree 6 in r
/// (Cephes expf).
inline Vec<float> exp(Vec<float> x) {
  typedef std::int32_t Bits __attribute__((vector_size(32)));
  constexpr float kRound = 12582912.0F;                           // 1.5 2^23: adding it rounds to an integer, which its low bits then hold
  const Vec<float> clamped = x < -87.0F ? broadcast(-87.0F) : x;  // keeps NaN
  const Vec<float> shifted = clamped * 1.44269504F + kRound, n = shifted - kRound;
  const Vec<float> r = (clamped - n * 0.693359375F) + n * 2.12194440e-4F;
  Vec<float> p = r * 1.9875691500e-4F + 1.3981999507e-3F;
  p = p * r + 8.3334519073e-3F;
  p = p * r + 4.1665795894e-2F;
  p = p * r + 1.6666665459e-1F;
  p = p * r + 5.0000001201e-1F;
  p = p * (r * r) + r + 1.0F;
  const Vec<float> scaled = (Vec<float>)((Bits)p + ((Bits)shifted << 23));
  return x < -87.0F ? Vec<float>{} : scaled;
}
inline Vec<double> exp(Vec<double> x) {
  for (int lane = 0; lane < kLanes<double>; ++lane) x[lane] = std::exp(x[lane]);
  return x;
}

/// log(1 + e) for 0 <= e <= 1 with a relative error below 1e-7: 2 atanh(s) with s = e / (2 + e) <= 1/3, by its power
/// series.
inline Vec<float> log1p_of_unit(Vec<float> e) {
  const Vec<float> s = e / (e + 2.0F), square = s * s;
  Vec<float> p = square * (1.0F / 15) + 1.0F / 13;
  p = p * square + 1.0F / 11;
  p = p * square + 1.0F / 9;
  p = p * square + 1.0F / 7;
  p = p * square + 1.0F / 5;
  p = p * square + 1.0F / 3;
  return 2.0F * (p * (square * s) + s);
}
inline Vec<double> log1p_of_unit(Vec<double> e) {
  for (int lane = 0; lane < kLanes<double>; ++lane) e[lane] = std::log1p(e[lane]);
  return e;
}

template <>
struct UnitMath<Vec<float>> {
  static Vec<float> exp(Vec<float> x) { return mnemo::exp(x); }
  static Vec<float> log1p(Vec<float> e) { return log1p_of_unit(e); }
};
template <>
struct UnitMath<Vec<double>> {
  static Vec<double> exp(Vec<double> x) { return mnemo::exp(x); }
  static Vec<double> log1p(Vec<double> e) { return log1p_of_unit(e); }
};

constexpr std::int64_t round_up(std::int64_t n, std::int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }

/// Distance between the rows of a matrix: whole cache lines, an odd number of them, so that a column does not fall on
/// few cache sets.
template <class Real>
constexpr std::int64_t row_stride(std::int64_t columns) {
  constexpr std::int64_t kLine = 64 / sizeof(Real);
  const auto lines = (columns + kLine - 1) / kLine;
  return (lines + (lines % 2 == 0)) * kLine;
}

/// Calls body<N>(column) for strips of N <= kMost <= 4 vectors that cover `columns`.
template <class Real, int kMost = 4, class Body>
void for_strips(std::int64_t columns, const Body& body) {
  for (std::int64_t column = 0; column < columns;) {
    const auto vectors = std::min<std::int64_t>((columns - column + kLanes<Real> - 1) / kLanes<Real>, kMost);
    switch (vectors) {
      case 4: body.template operator()<4>(column); break;
      case 3: body.template operator()<3>(column); break;
      case 2: body.template operator()<2>(column); break;
      default: body.template operator()<1>(column); break;
    }
    column += vectors * kLanes<Real>;
  }
}

template <class T>
struct CacheLineAllocator {
  using value_type = T;
  CacheLineAllocator() = default;
  template <class U>
  CacheLineAllocator(const CacheLineAllocator<U>&) {}
  T* allocate(std::size_t n) { return static_cast<T*>(::operator new (n * sizeof(T), std::align_val_t{64})); }
  void deallocate(T* p, std::size_t) { ::operator delete (p, std::align_val_t{64}); }
  bool operator==(const CacheLineAllocator&) const { return true; }
};

/// A zero-initialised matrix with aligned, padded rows.
template <class Real>
class Matrix {
 public:
  Matrix() = default;
  Matrix(std::int64_t rows, std::int64_t columns) : stride_(row_stride<Real>(columns)), data_(static_cast<std::size_t>(rows * stride_)) {}

  Real* operator[](std::int64_t row) { return data_.data() + row * stride_; }
  const Real* operator[](std::int64_t row) const { return data_.data() + row * stride_; }
  std::int64_t stride() const { return stride_; }
  void zero() { std::memset(data_.data(), 0, data_.size() * sizeof(Real)); }
  void operator+=(const Matrix& other) {
    for (std::size_t i = 0; i < data_.size(); i += kLanes<Real>) store(&data_[i], load(&data_[i]) + load(&other.data_[i]));
  }

 private:
  std::int64_t stride_ = 0;
  std::vector<Real, CacheLineAllocator<Real>> data_;
};

/// Swaps the off-diagonal quarters of every 2 distance x 2 distance block that two rows of a matrix, `distance` apart, cut through.
template <int distance, class Real>
void exchange(Vec<Real>& upper, Vec<Real>& lower) {
  Mask<Real> for_upper{}, for_lower{};
  for (int lane = 0; lane < kLanes<Real>; ++lane) {
    for_upper[lane] = lane & distance ? kLanes<Real> + lane - distance : lane;
    for_lower[lane] = lane & distance ? kLanes<Real> + lane : lane + distance;
  }
  const auto swapped = __builtin_shuffle(upper, lower, for_lower);
  upper = __builtin_shuffle(upper, lower, for_upper);
  lower = swapped;
}

/// to[c][r] = from[r][c] for the rows from `first`, a multiple of the vector width, in blocks of whole vectors both ways: the matrices must reach as
/// far.
template <class Real>
void transpose(const Matrix<Real>& from, std::int64_t rows, std::int64_t columns, Matrix<Real>& to, std::int64_t first = 0) {
  constexpr auto kN = kLanes<Real>;
  for (auto r = first; r < rows; r += kN) {
    for (std::int64_t c = 0; c < columns; c += kN) {
      Vec<Real> block[kN];
      for (int i = 0; i < kN; ++i) block[i] = load(from[r + i] + c);
      const auto step = [&]<int distance>() {
        for (int i = 0; i < kN; ++i) {
          if ((i & distance) == 0) exchange<distance, Real>(block[i], block[i + distance]);
        }
      };
      if constexpr (kN == 8) step.template operator()<4>();
      step.template operator()<2>();
      step.template operator()<1>();
      for (int i = 0; i < kN; ++i) store(to[c + i] + r, block[i]);
    }
  }
}

}  // namespace mnemo
