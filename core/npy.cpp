#include "core/npy.h"

#include "core/error.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cstring>
#include <optional>

#include <fmt/format.h>

namespace mnemo {
namespace {

constexpr std::string_view kMagic = "\x93NUMPY";
constexpr std::size_t kHeaderBytes = 128;             // of the files we write
constexpr std::size_t kMaxHeaderBytes = 1 << 16;      // of the files we read
constexpr std::size_t kMaxPreambleBytes = 6 + 2 + 4;  // magic, version, length of the dict

struct ElementType {
  std::string_view descr;
  Dtype dtype;
};
// For each dtype, the first is the one we write.
constexpr std::array<ElementType, 7> kElementTypes = {
    {{"|u1", Dtype::u8}, {"|b1", Dtype::u8}, {"|i1", Dtype::u8}, {"<i4", Dtype::i32}, {"<i8", Dtype::i64}, {"<f4", Dtype::f32}, {"<f8", Dtype::f64}}};

std::string_view descr_of(Dtype dtype) { return std::ranges::find(kElementTypes, dtype, &ElementType::dtype)->descr; }

/// As Python prints it: (), (3,), (3, 4).
std::string tuple_of(const Shape& shape) { return fmt::format("({}{})", fmt::join(shape, ", "), shape.size() == 1 ? "," : ""); }

/// The Python dict of a header: exactly the keys descr, fortran_order and shape, in any order.
class Dict {
 public:
  std::optional<std::string> descr;
  std::optional<bool> fortran_order;
  std::optional<Shape> shape;

  Dict(const fs::path& path, std::string_view text) : path_(path), text_(text), rest_(text) {
    expect('{');
    while (!take('}')) {
      read_item();
      if (take(',')) continue;
      expect('}');
      break;
    }
    expect('\n');
    if (!rest_.empty() || !descr || !fortran_order || !shape) malformed();
  }

 private:
  [[noreturn]] void malformed() const {
    refuse(path_, fmt::format("its header is not one that NumPy writes (wrong from byte {} of its dict on)", text_.size() - rest_.size()));
  }

  void skip_blanks() { rest_.remove_prefix(std::min(rest_.find_first_not_of(' '), rest_.size())); }

  bool take(char c) {
    skip_blanks();
    if (!rest_.starts_with(c)) return false;
    rest_.remove_prefix(1);
    return true;
  }

  void expect(char c) {
    if (!take(c)) malformed();
  }

  void read_item() {
    const auto key = read_string();
    expect(':');
    if (key == "descr" && !descr) {
      if (take('[')) refuse(path_, "holds records with fields; only plain arrays are supported");
      descr = read_string();
    } else if (key == "fortran_order" && !fortran_order) {
      fortran_order = read_bool();
    } else if (key == "shape" && !shape) {
      shape = read_tuple();
    } else {
      malformed();
    }
  }

  std::string read_string() {
    const char quote = take('\'') ? '\'' : '"';
    if (quote == '"') expect('"');
    const auto end = rest_.find(quote);
    if (end == rest_.npos) malformed();
    const std::string content(rest_.substr(0, end));
    rest_.remove_prefix(end + 1);
    return content;
  }

  bool read_bool() {
    const bool value = take('T');
    if (!value) expect('F');
    const std::string_view tail = value ? "rue" : "alse";
    if (!rest_.starts_with(tail)) malformed();
    rest_.remove_prefix(tail.size());
    return value;
  }

  Shape read_tuple() {
    Shape sizes;
    expect('(');
    while (!take(')')) {
      sizes.push_back(read_size());
      if (sizes.size() > kMaxDimensions) {
        refuse(path_, fmt::format("has more than {} dimensions, which is not supported", kMaxDimensions));
      }
      if (take(',')) continue;
      if (sizes.size() == 1) malformed();  // "(3)" is no tuple
      expect(')');
      break;
    }
    return sizes;
  }

  std::int64_t read_size() {
    skip_blanks();
    std::int64_t size = 0;
    const auto [end, error] = std::from_chars(rest_.data(), rest_.data() + rest_.size(), size);
    if (error == std::errc::result_out_of_range) refuse(path_, "its shape is impossibly large");
    if (error != std::errc() || rest_.starts_with('-')) malformed();
    rest_.remove_prefix(static_cast<std::size_t>(end - rest_.data()));
    return size;
  }

  const fs::path& path_;
  std::string_view text_, rest_;
};

ElementType element_type_of(const fs::path& path, const std::string& descr) {
  const auto type = std::ranges::find(kElementTypes, descr, &ElementType::descr);
  if (type != kElementTypes.end()) return *type;
  if (descr.starts_with('>')) refuse(path, fmt::format("is big-endian ('{}'), which is not supported", descr));
  if (descr == "|O" || descr == "O") {
    refuse(path, "holds Python objects; loading them would run code from the file, so they are refused");
  }
  refuse(path, fmt::format("its element type '{:.40}' is not supported", descr));
}

struct Layout {
  NpyHeader header;
  std::string_view descr;
  std::int64_t bytes = 0;   // of the elements
  std::int64_t excess = 0;  // bytes of the file after them
};

/// Reads the header, then the file's size: an append in flight grows the file first and the header last.
Layout read_layout(const fs::path& path, const InputFile& file) {
  const auto start = file.read(0, kMaxPreambleBytes + kMaxHeaderBytes);
  const std::string_view front = start;
  if (!front.starts_with(kMagic)) refuse(path, "is not a .npy file: it does not begin with NumPy's magic string");
  if (front.size() < kMagic.size() + 4) refuse(path, "is cut off within its header");
  const int version = front[6];
  if (version < 1 || version > 3 || front[7] != 0) {
    refuse(path, fmt::format("has version {}.{} of the .npy format; 1.0, 2.0 and 3.0 are supported", version & 0xff, front[7] & 0xff));
  }
  const std::size_t length_bytes = version == 1 ? 2 : 4;
  const auto dict_at = kMagic.size() + 2 + length_bytes;
  std::uint32_t dict_bytes = 0;
  if (front.size() < dict_at) refuse(path, "is cut off within its header");
  std::memcpy(&dict_bytes, front.data() + kMagic.size() + 2, length_bytes);
  if (dict_bytes > kMaxHeaderBytes) refuse(path, fmt::format("its header of {} bytes is impossibly long", dict_bytes));
  if (front.size() - dict_at < dict_bytes) refuse(path, "is cut off within its header");

  Dict dict(path, front.substr(dict_at, dict_bytes));
  const auto type = element_type_of(path, *dict.descr);
  if (*dict.fortran_order) refuse(path, "is in Fortran order; save it with numpy.ascontiguousarray");
  const auto bytes = checked_bytes(type.dtype, *dict.shape);
  if (!bytes) refuse(path, fmt::format("its shape {} is impossibly large", tuple_of(*dict.shape)));

  const auto data_offset = static_cast<std::int64_t>(dict_at + dict_bytes);
  const auto held = static_cast<std::int64_t>(file.size()) - data_offset;
  if (held < *bytes) {
    refuse(path, fmt::format("holds {} bytes of elements, its shape {} of {} needs {}: it was cut off", held, tuple_of(*dict.shape),
                             name_of(type.dtype), *bytes));
  }
  return {{type.dtype, *std::move(dict.shape), data_offset}, type.descr, *bytes, held - *bytes};
}

}  // namespace

NpyHeader read_npy_header(const fs::path& path) { return read_layout(path, InputFile(path)).header; }

NpyArray read_npy(const fs::path& path, bool allow_excess) {
  const InputFile file(path);
  auto [header, descr, size, excess] = read_layout(path, file);
  if (excess > 0 && !allow_excess) {
    refuse(path, fmt::format("holds {} bytes of elements, its shape {} of {} needs only {}", size + excess, tuple_of(header.shape),
                             name_of(header.dtype), size));
  }
  auto bytes = file.read(static_cast<std::uint64_t>(header.data_offset), static_cast<std::uint64_t>(size));
  if (std::ssize(bytes) < size) refuse(path, "was cut off while it was read");
  if (descr == "|b1" && std::ranges::any_of(bytes, [](unsigned char b) { return b > 1; })) {
    refuse(path, "holds a bool that is neither 0 nor 1");
  }
  if (descr == "|i1" && std::ranges::any_of(bytes, [](unsigned char b) { return b > 127; })) {
    refuse(path, "holds negative int8 elements, which are not supported");
  }
  return {header.dtype, std::move(header.shape), std::move(bytes)};
}

NpyRows::NpyRows(const fs::path& path) : file_(path), header_(read_layout(path, file_).header) {
  if (header_.shape.empty()) refuse(path, "holds one number, expected an array of rows");
}

NpyArray NpyRows::read(std::int64_t first, std::int64_t count) const {
  auto shape = header_.shape;
  if (first < 0 || count < 0 || first > size() - count) {
    refuse(file_.path(), fmt::format("has {} rows, asked for {} from row {} on", size(), count, first));
  }
  shape[0] = 1;
  const auto row_bytes = num_elements(shape) * static_cast<std::int64_t>(size_of(header_.dtype));
  shape[0] = count;
  auto bytes = file_.read(static_cast<std::uint64_t>(header_.data_offset + first * row_bytes), static_cast<std::uint64_t>(count * row_bytes));
  if (std::ssize(bytes) < count * row_bytes) refuse(file_.path(), "was cut off while it was read");
  return {header_.dtype, std::move(shape), std::move(bytes)};
}

NpyArray NpyRows::operator[](std::int64_t row) const {
  auto array = read(row, 1);
  array.shape.erase(array.shape.begin());
  return array;
}

std::string npy_header(Dtype dtype, const Shape& shape) {
  const auto dict = fmt::format("{{'descr': '{}', 'fortran_order': False, 'shape': {}, }}", descr_of(dtype), tuple_of(shape));
  constexpr std::uint16_t kDictBytes = kHeaderBytes - kMagic.size() - 4;
  if (dict.size() >= kDictBytes) throw Error(ExitCode::bug, "an array's shape is too long for a .npy header: " + dict);
  return fmt::format("{}{}{}{}{}{:<{}}\n", kMagic, '\1', '\0', static_cast<char>(kDictBytes), '\0', dict, kDictBytes - 1);
}

void write_npy(const fs::path& path, const ArrayView& array, bool durable) {
  AtomicFile file(path, durable);
  file.write(npy_header(array.dtype, array.shape));
  file.write(array.as_bytes());
  file.commit();
}

NpyAppender::NpyAppender(fs::path path, Dtype dtype, Shape row_shape)
    : dtype_(dtype),
      row_shape_(std::move(row_shape)),
      row_bytes_(checked_bytes(dtype, row_shape_).value_or(0)),
      file_(std::move(path), kHeaderBytes) {
  if (row_bytes_ == 0) throw Error(ExitCode::bug, file_.path().string() + ": a row without elements: " + tuple_of(row_shape_));
}

void NpyAppender::begin() {
  file_ = AppendFile(file_.path(), kHeaderBytes);
  std::error_code unknown;
  if (!fs::exists(path(), unknown)) write_atomically(path(), header(0), /*durable=*/false);  // the file never exists without a header
  file_.write_header(header(0));
}

std::int64_t NpyAppender::rows() const { return (file_.size() - static_cast<std::int64_t>(kHeaderBytes)) / row_bytes_; }

void NpyAppender::rewind(const FileMark& mark) {
  if ((mark.size - static_cast<std::int64_t>(kHeaderBytes)) % row_bytes_ != 0) {
    refuse(path(), fmt::format("its mark, {} bytes, is no whole number of rows", mark.size));
  }
  file_.rewind(mark);
  file_.write_header(header(rows()));
}

void NpyAppender::append(const ArrayView& row) {
  if (row.dtype != dtype_ || row.bytes() != static_cast<std::size_t>(row_bytes_)) {
    throw Error(ExitCode::bug, fmt::format("{}: a row of {} {} where {} of {} is due", path().string(), num_elements(row.shape), name_of(row.dtype),
                                           tuple_of(row_shape_), name_of(dtype_)));
  }
  file_.append(row.as_bytes(), header(rows() + 1));
}

std::string NpyAppender::header(std::int64_t rows) const {
  Shape shape = row_shape_;
  shape.insert(shape.begin(), rows);
  return npy_header(dtype_, shape);
}

}  // namespace mnemo
