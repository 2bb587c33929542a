#include "core/pickle.h"

#include "core/error.h"

#include <bit>
#include <limits>
#include <utility>

#include <fmt/format.h>

// The opcodes and their arguments are those of Python's pickletools.py; an array is pickled as NumPy's __reduce__ does.

namespace mnemo {
namespace {

constexpr std::size_t kFrameBytes = 1 << 16;  // what Python's own pickler aims at; larger elements lie outside of frames

template <class Narrow>
bool fits(std::int64_t integer) {
  return integer >= std::numeric_limits<Narrow>::min() && integer <= std::numeric_limits<Narrow>::max();
}

}  // namespace

void PickleWriter::value(std::int64_t integer) {
  cut_frame();
  if (fits<std::uint8_t>(integer)) {
    number("K", static_cast<std::uint8_t>(integer));
  } else if (fits<std::uint16_t>(integer)) {
    number("M", static_cast<std::uint16_t>(integer));
  } else if (fits<std::int32_t>(integer)) {
    number("J", static_cast<std::int32_t>(integer));
  } else {
    number("\x8a\x08", integer);
  }
}

void PickleWriter::value(double real) {
  number("G", __builtin_bswap64(std::bit_cast<std::uint64_t>(real)));  // the only big-endian one
}

void PickleWriter::value(std::string_view text) {
  cut_frame();
  number("X", static_cast<std::uint32_t>(text.size()));
  op(text);
}

std::uint32_t PickleWriter::remember() {
  op("\x94");
  return remembered_++;
}

void PickleWriter::global(std::string_view module, std::string_view name) {
  const auto [known, is_new] = memo_.try_emplace(fmt::format("c{}\n{}\n", module, name));
  if (!is_new) return again(known->second);
  op(known->first);
  known->second = remember();
}

void PickleWriter::dtype(Dtype dtype) {
  static constexpr std::string_view kNames[] = {"u1", "i4", "i8", "f4", "f8"};
  const auto name = kNames[static_cast<std::size_t>(dtype)];
  const auto known = memo_.find(std::string(name));
  if (known != memo_.end()) return again(known->second);
  global("numpy", "dtype");
  value(name);
  op("\x89\x88\x87R");  // numpy.dtype(name, False, True)
  op("(K\x03");
  value(dtype == Dtype::u8 ? "|" : "<");
  op("NNN");
  value(-1);
  value(-1);
  value(0);
  op("tb");  // its state: version, byte order, no fields, sizes from the name
  memo_[std::string(name)] = remember();
}

void PickleWriter::begin_array(Dtype element, const Shape& shape) {
  global("numpy.core.multiarray", "_reconstruct");
  global("numpy", "ndarray");
  op(
      std::string_view("K\0\x85"
                       "C\x01"
                       "b\x87R",
                       8));  // _reconstruct(ndarray, (0,), b"b")
  op("(K\x01(");             // its state: version, shape, dtype, not in Fortran order, elements
  for (const auto size : shape) value(size);
  op("t");
  dtype(element);
  op("\x89");
  missing_ = static_cast<std::uint64_t>(num_elements(shape)) * size_of(element);
  const bool is_large = missing_ >= kFrameBytes;
  if (is_large) flush();
  number("\x8e", missing_);
  if (is_large) file_.write(std::exchange(frame_, {}));
}

void PickleWriter::elements(std::string_view bytes) {
  if (bytes.size() > missing_) throw Error(ExitCode::bug, "[pickle] an array with more elements than its shape says");
  missing_ -= bytes.size();
  if (frame_.empty()) {  // a large array
    file_.write(bytes);
  } else {
    op(bytes);
  }
}

void PickleWriter::end_array() {
  if (missing_ != 0) throw Error(ExitCode::bug, "[pickle] an array with fewer elements than its shape says");
  op("tb");
}

void PickleWriter::array(const ArrayView& view) {
  array(view.dtype, view.shape, [&] { elements(view.as_bytes()); });
}

void PickleWriter::flush() {
  if (frame_.empty()) return;
  const auto opcodes = std::exchange(frame_, {});
  number("\x95", static_cast<std::uint64_t>(opcodes.size()));
  file_.write(std::exchange(frame_, {}) + opcodes);
}

/// To be called between two opcodes only.
void PickleWriter::cut_frame() {
  if (frame_.size() >= kFrameBytes) flush();
}

void PickleWriter::commit() {
  op(".");
  flush();
  file_.commit();
}

}  // namespace mnemo
