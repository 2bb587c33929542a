#pragma once

#include "core/array.h"
#include "core/files.h"

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace mnemo {

/// A safetensors file in memory: 8 bytes of header length, a JSON header, then the tensors' bytes.
/// Format: https://huggingface.co/docs/safetensors
class Safetensors {
 public:
  enum class Digest { optional, required };

  /// Reads and verifies the whole file: U8, BOOL (as u8), I32, I64, F32, F64. Throws Error{data} `PATH: what is wrong`
  /// unless: the header is one JSON object without repeated keys; every tensor has a known dtype and a shape (at most
  /// 8 sizes) that fits its range; the ranges tile the payload without gap or overlap; `__metadata__` holds strings
  /// only; and its `digest`, where present (or required), is the file's own. With Digest::required no flipped bit goes
  /// unseen. Allocates at most twice the file's size, and up to 8 times the header's (at most 100 MB) to parse it.
  static Safetensors read(const fs::path& path, Digest digest = Digest::optional);

  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  const std::map<std::string, ArrayView>& tensors() const { return tensors_; }
  bool contains(const std::string& name) const { return tensors_.count(name) != 0; }
  /// Throws Error{data} when there is no such tensor.
  const ArrayView& at(const std::string& name) const;
  /// The elements; Error{data} when the dtype is another one or (size >= 0) the number of elements is.
  template <class T>
  std::span<const T> get(const std::string& name, std::int64_t size = -1) const {
    return checked(name, DtypeOf<T>::value, size).template as<T>();
  }
  const fs::path& path() const { return path_; }

  Safetensors(Safetensors&&) = default;  // the tensors point into bytes_: moved, never copied
  Safetensors& operator=(Safetensors&&) = default;

 private:
  Safetensors() = default;
  const ArrayView& checked(const std::string& name, Dtype dtype, std::int64_t size) const;
  fs::path path_;
  std::string bytes_;
  std::vector<std::vector<char>> aligned_;  // copies of the tensors that the file does not align to their elements
  std::map<std::string, std::string> metadata_;
  std::map<std::string, ArrayView> tensors_;
};

/// Writes atomically, tensor by tensor (no copy of the payload). Tensors are laid out by size of element, largest
/// first, in the order given otherwise: so each is aligned to its element and there are no gaps. The header is padded
/// with blanks to 8 bytes. Adds `__metadata__.digest`: XXH3-128 of the whole file with its own 32 hex digits as '0'.
void write_safetensors(const fs::path& path, const std::vector<std::pair<std::string, ArrayView>>& tensors,
                       std::map<std::string, std::string> metadata = {});

}  // namespace mnemo
