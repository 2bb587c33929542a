#pragma once

// What tests of kernels share. No torch header; a test compiles under g++ with the emulator, and under nvcc for a GPU.

#include "core/simt.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <initializer_list>
#include <limits>
#include <random>
#include <string>
#include <tuple>
#include <type_traits>
#include <vector>

namespace mnemo::simt {

#ifdef __CUDACC__
inline constexpr bool kTsan = false;
#endif
inline constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

/// n values on the device, in an array of exactly that size.
template <class T>
class Device {
 public:
  explicit Device(const std::vector<T>& values) : size_(values.size()) {
#ifdef __CUDACC__
    check(cudaMalloc(&data_, std::max<std::size_t>(1, size_) * sizeof(T)), "cudaMalloc");
    check(cudaMemcpy(data_, values.data(), size_ * sizeof(T), cudaMemcpyHostToDevice), "cudaMemcpy");
#else
    data_ = new T[size_];
    std::copy(values.begin(), values.end(), data_);
#endif
  }
  Device(std::initializer_list<T> values) : Device(std::vector<T>(values)) {}
  /// Outputs and work space: n values whose every byte is 0xff (NaN, -1), so that what was not written shows.
  explicit Device(std::size_t n) : Device(unwritten(n)) {}
  Device(const Device&) = delete;
  ~Device() {
#ifdef __CUDACC__
    cudaFree(data_);
#else
    delete[] data_;
#endif
  }

  operator T*() const { return data_; }
  std::size_t size() const { return size_; }
  std::vector<T> host() const {
    std::vector<T> values(size_);
#ifdef __CUDACC__
    check(cudaMemcpy(values.data(), data_, size_ * sizeof(T), cudaMemcpyDeviceToHost), "cudaMemcpy");
#else
    std::copy(data_, data_ + size_, values.begin());
#endif
    return values;
  }

  static std::vector<T> unwritten(std::size_t n) {
    static_assert(std::is_trivially_copyable_v<T>);
    std::vector<T> values(n);
    if (n > 0) std::memset(static_cast<void*>(values.data()), 0xff, n * sizeof(T));
    return values;
  }

 private:
  std::size_t size_;
  T* data_;
};

template <class T>
bool same_bits(const T& a, const T& b) {
  static_assert(std::has_unique_object_representations_v<T> || std::is_floating_point_v<T>);
  return std::memcmp(&a, &b, sizeof a) == 0;
}
template <class... T>
bool same_bits(const std::tuple<T...>& a, const std::tuple<T...>& b);
template <class T>
bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](const T& x, const T& y) { return same_bits(x, y); });
}
template <class... T>
bool same_bits(const std::tuple<T...>& a, const std::tuple<T...>& b) {
  return std::apply([&](const auto&... x) { return std::apply([&](const auto&... y) { return (same_bits(x, y) && ...); }, b); }, a);
}

/// Whether a kernel gave what the CPU's form of the same arithmetic gives: the same bits in the emulator; on a GPU, where products are fused with
/// sums and pow() is another, the same but for a few roundings of numbers of about one.
template <class T>
bool agree(const T& got, const T& want) {
#ifdef __CUDACC__
  if constexpr (std::is_floating_point_v<T>) {
    if (std::abs(got - want) <= 16 * std::numeric_limits<T>::epsilon() * (1 + std::abs(want)) || (std::isnan(got) && std::isnan(want))) return true;
  }
#endif
  return same_bits(got, want);
}
template <class T>
bool agree(const std::vector<T>& got, const std::vector<T>& want) {
  return std::equal(got.begin(), got.end(), want.begin(), want.end(), [](const T& x, const T& y) { return agree(x, y); });
}
template <class... T>
bool agree(const std::tuple<T...>& got, const std::tuple<T...>& want) {
  return std::apply([&](const auto&... x) { return std::apply([&](const auto&... y) { return (agree(x, y) && ...); }, want); }, got);
}

/// What run() gives (numbers, or vectors or tuples of such), whose bits must be the same in every order of threads and blocks. Under TSan one order
/// does: it needs no luck with them. On a GPU: in two runs.
template <class Run>
auto in_every_order(const Run& run) {
  const auto first = run();
#ifdef __CUDACC__
  EXPECT_TRUE(same_bits(run(), first)) << "another run";
#else
  for (int attempt = 1; attempt < (kTsan ? 1 : 5); ++attempt) {
    order = attempt == 1 ? Order::backward : Order::random;
    seed = static_cast<unsigned>(attempt);
    EXPECT_TRUE(same_bits(run(), first)) << "order " << attempt << " of threads";
  }
  order = Order::forward;
#endif
  return first;
}

#ifndef __CUDACC__
/// The names of the kernels that run() launches.
template <class Run>
std::vector<std::string> launched_by(const Run& run) {
  std::vector<std::string> names;
  const auto before = around_launch;
  around_launch = [&](const Launch& launch, const auto& go) {
    names.emplace_back(launch.kernel);
    before(launch, go);
  };
  run();
  around_launch = before;
  return names;
}
#endif

/// The same numbers in every run.
struct Random {
  std::mt19937 bits{7};

  int below(int n) { return static_cast<int>(bits() % static_cast<unsigned>(n)); }
  float normal(float scale) { return std::normal_distribution<float>(0, scale)(bits); }
  template <class Real = float>
  std::vector<Real> normals(std::size_t n, float scale) {
    std::vector<Real> values(n);
    for (auto& value : values) value = normal(scale);
    return values;
  }
};

}  // namespace mnemo::simt
