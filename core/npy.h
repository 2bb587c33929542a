#pragma once

#include "core/array.h"
#include "core/files.h"

#include <cstdint>
#include <string>

namespace mnemo {

/// An array read from a .npy file, with its elements.
struct NpyArray {
  Dtype dtype = Dtype::u8;
  Shape shape;
  std::string bytes;  // row-major elements

  ArrayView view() const { return {dtype, shape, reinterpret_cast<const std::byte*>(bytes.data())}; }
};

/// dtype and shape without reading the elements. Throws Error{data} as read_npy does, but accepts a file that is too long.
struct NpyHeader {
  Dtype dtype = Dtype::u8;
  Shape shape;
  std::int64_t data_offset = 0;
};
NpyHeader read_npy_header(const fs::path& path);

/// Reads versions 1.0, 2.0, 3.0 of the format; element types |u1, |b1 (read as u8), |i1 (refused when negative), <i4,
/// <i8, <f4, <f8. Throws Error{data} `PATH: what is wrong` for anything else: a bad magic, a header that is no NumPy
/// header, Fortran order, big-endian or object types, a shape that overflows or has more than 8 sizes, a file shorter
/// or longer than its shape says (a longer one is legal with `allow_excess`: an append in flight). Never allocates more
/// than the file's size and a few hundred bytes.
NpyArray read_npy(const fs::path& path, bool allow_excess = false);

/// The rows of a .npy file (T, row shape...), read one at a time, also while the file grows.
class NpyRows {
 public:
  /// Throws Error{data} as read_npy does, and for a scalar, which has no rows.
  explicit NpyRows(const fs::path& path);

  std::int64_t size() const { return header_.shape[0]; }
  /// One row; or `count` rows, as an array of them. Throws Error{data} beyond the last.
  NpyArray operator[](std::int64_t row) const;
  NpyArray read(std::int64_t first, std::int64_t count) const;

 private:
  InputFile file_;
  NpyHeader header_;
};

/// Writes the whole array atomically.
void write_npy(const fs::path& path, const ArrayView& array, bool durable = true);

/// The fixed 128-byte version 1.0 header of an array.
std::string npy_header(Dtype dtype, const Shape& shape);

/// A .npy file (T, row shape...) that grows by rows. The header is rewritten after the rows, so the file is valid at all times, and never shrinks, so
/// that a process that mapped it never faults.
class NpyAppender {
 public:
  /// Touches no file; begin() or rewind() comes next. A row holds at least one element.
  NpyAppender(fs::path path, Dtype dtype, Shape row_shape);

  /// Adds one row, of the elements that the row's shape says. Throws as AppendFile::append.
  void append(const ArrayView& row);
  /// Starts with T = 0, in a new file or an existing one.
  void begin();
  std::int64_t rows() const;
  FileMark mark() const { return file_.mark(); }
  void sync() { file_.sync(); }
  /// Goes back to a mark: verifies the rows up to it (Error{data}) and rewrites the header.
  void rewind(const FileMark& mark);
  const fs::path& path() const { return file_.path(); }

 private:
  std::string header(std::int64_t rows) const;

  Dtype dtype_;
  Shape row_shape_;
  std::int64_t row_bytes_;
  AppendFile file_;
};

}  // namespace mnemo
