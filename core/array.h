#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

namespace mnemo {

static_assert(std::endian::native == std::endian::little, "the files' little-endian numbers are used as they are");

/// Element types that the containers (.npy, safetensors) hold. Little-endian.
enum class Dtype { u8, i32, i64, f32, f64 };

constexpr std::size_t size_of(Dtype dtype) {
  switch (dtype) {
    case Dtype::u8: return 1;
    case Dtype::i32:
    case Dtype::f32: return 4;
    case Dtype::i64:
    case Dtype::f64: return 8;
  }
  return 0;
}

/// NumPy's name, for messages.
constexpr std::string_view name_of(Dtype dtype) {
  switch (dtype) {
    case Dtype::u8: return "uint8";
    case Dtype::i32: return "int32";
    case Dtype::i64: return "int64";
    case Dtype::f32: return "float32";
    case Dtype::f64: return "float64";
  }
  return "?";
}

template <class T>
struct DtypeOf;
template <>
struct DtypeOf<std::uint8_t> {
  static constexpr Dtype value = Dtype::u8;
};
template <>
struct DtypeOf<std::int32_t> {
  static constexpr Dtype value = Dtype::i32;
};
template <>
struct DtypeOf<std::int64_t> {
  static constexpr Dtype value = Dtype::i64;
};
template <>
struct DtypeOf<float> {
  static constexpr Dtype value = Dtype::f32;
};
template <>
struct DtypeOf<double> {
  static constexpr Dtype value = Dtype::f64;
};

using Shape = std::vector<std::int64_t>;

/// Limits what a hostile file can ask for; no array here has as many.
constexpr std::size_t kMaxDimensions = 8;

/// Product of the sizes; 1 for a scalar. The caller guarantees that it does not overflow.
inline std::int64_t num_elements(const Shape& shape) {
  std::int64_t n = 1;
  for (auto size : shape) n *= size;
  return n;
}

/// Bytes of an array of this shape. Nothing if a size is negative or a product of sizes overflows, even beside a size of 0: its strides would have no
/// meaning.
inline std::optional<std::int64_t> checked_bytes(Dtype dtype, const Shape& shape) {
  auto bytes = static_cast<std::int64_t>(size_of(dtype));
  bool empty = false;
  for (auto size : shape) {
    if (size < 0 || __builtin_mul_overflow(bytes, std::max<std::int64_t>(size, 1), &bytes)) return std::nullopt;
    empty = empty || size == 0;
  }
  return empty ? 0 : bytes;
}

/// A dense row-major array that somebody else owns.
struct ArrayView {
  Dtype dtype = Dtype::u8;
  Shape shape;
  const std::byte* data = nullptr;

  std::size_t bytes() const { return static_cast<std::size_t>(num_elements(shape)) * size_of(dtype); }
  std::string_view as_bytes() const { return {reinterpret_cast<const char*>(data), bytes()}; }
  /// The elements as T. The caller has checked that `dtype == DtypeOf<T>::value`.
  template <class T>
  std::span<const T> as() const {
    return {reinterpret_cast<const T*>(data), static_cast<std::size_t>(num_elements(shape))};
  }
};

/// View of a contiguous range as an array of the given shape.
template <class T>
ArrayView view_of(const T* data, Shape shape) {
  return {DtypeOf<T>::value, std::move(shape), reinterpret_cast<const std::byte*>(data)};
}

/// View of a vector as a row.
template <class T>
ArrayView row_of(const std::vector<T>& values) {
  return view_of(values.data(), {static_cast<std::int64_t>(values.size())});
}

}  // namespace mnemo
