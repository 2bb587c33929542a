#pragma once

#include "core/array.h"
#include "core/files.h"

#include <concepts>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>

namespace mnemo {

/// Writes one Python object as a pickle (protocol 4), piece by piece, atomically; equal calls give equal bytes. Needs no more memory than the largest
/// piece. Not fsynced, which would take longer than all the rest: pickles can be made again.
///
///   PickleWriter out(path);
///   out.dict([&] {
///     out.item("epoch", 3);
///     out.item("logs");
///     out.list([&] { out.array(view); });
///   });
///   out.commit();
class PickleWriter {
 public:
  explicit PickleWriter(const fs::path& path) : file_(path, /*durable=*/false) { file_.write("\x80\x04"); }

  void value(std::int64_t integer);
  void value(double real);
  void value(std::string_view text);
  void value(const char* text) { value(std::string_view(text)); }
  void value(const ArrayView& view) { array(view); }
  template <std::integral Integer>
  requires(!std::same_as<Integer, bool>) void value(Integer integer) { value(static_cast<std::int64_t>(integer)); }

  /// `items` writes keys and values in turn.
  template <class Items>
  void dict(Items&& items) {
    op("}(");
    items();
    op("u");
  }
  template <class Elements>
  void list(Elements&& elements) {
    op("](");
    elements();
    op("e");
  }
  void item(std::string_view key) { value(key); }
  template <class Value>
  void item(std::string_view key, const Value& content) {
    value(key);
    value(content);
  }
  /// Memoises the object written last; again() refers to that object, not a copy, in a few bytes.
  std::uint32_t remember();
  void again(std::uint32_t remembered) { number("j", remembered); }

  /// A NumPy array, through numpy.core.multiarray._reconstruct, which NumPy 1 and 2 know.
  void array(const ArrayView& view);
  /// The same where the elements come in pieces: `fill` calls elements() until all are written.
  template <class Fill>
  void array(Dtype dtype, const Shape& shape, Fill&& fill) {
    begin_array(dtype, shape);
    fill();
    end_array();
  }
  void elements(std::string_view bytes);
  /// Calls a Python function on the object that `write_argument` writes: torch.from_numpy makes a tensor of an array.
  template <class Argument>
  void call(std::string_view module, std::string_view function, Argument&& write_argument) {
    global(module, function);
    write_argument();
    op("\x85R");
  }

  /// Puts the file in place under its name.
  void commit();

 private:
  void op(std::string_view bytes) { frame_ += bytes; }
  void cut_frame();
  template <class Number>
  void number(std::string_view opcode, Number argument) {
    op(opcode);
    op({reinterpret_cast<const char*>(&argument), sizeof argument});
  }
  void global(std::string_view module, std::string_view name);
  void dtype(Dtype dtype);
  void begin_array(Dtype dtype, const Shape& shape);
  void end_array();
  void flush();

  AtomicFile file_;
  std::string frame_;                          // opcodes not yet in the file
  std::map<std::string, std::uint32_t> memo_;  // functions, types and dtypes written so far
  std::uint32_t remembered_ = 0;
  std::uint64_t missing_ = 0;  // bytes that the current array still lacks
};

}  // namespace mnemo
