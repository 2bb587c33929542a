#include "core/safetensors.h"

#include "core/error.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <optional>
#include <set>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

namespace mnemo {
namespace {

using nlohmann::json;

constexpr std::size_t kLengthBytes = 8;                 // before the header
constexpr std::uint64_t kMaxHeaderBytes = 100'000'000;  // the limit of the Python package
constexpr std::string_view kMetadata = "__metadata__";
constexpr std::string_view kBlankDigest = "00000000000000000000000000000000";

struct ElementType {
  std::string_view name;
  Dtype dtype;
};
// For each dtype, the first is the one we write.
constexpr std::array<ElementType, 6> kElementTypes = {
    {{"U8", Dtype::u8}, {"BOOL", Dtype::u8}, {"I32", Dtype::i32}, {"I64", Dtype::i64}, {"F32", Dtype::f32}, {"F64", Dtype::f64}}};

/// A JSON string, with invalid UTF-8 replaced.
std::string json_string(std::string_view text) { return json(text).dump(-1, ' ', true, json::error_handler_t::replace); }

/// Text of the file, made safe for a message: hostile text is long and holds control characters.
std::string shown(std::string_view text) { return json_string(text.substr(0, 100)); }

std::string tensor(std::string_view name) { return "tensor " + shown(name); }

/// The offset of the digest's digits. Strings escape quotes and tensors are objects, so that in a valid header `"digest":"` is the key of
/// `__metadata__`. npos: it is written in some other way.
std::size_t find_digest(std::string_view header, std::string_view digest) {
  constexpr std::string_view key = "\"digest\":\"";
  const auto at = header.find(fmt::format("{}{}\"", key, digest));
  return at == header.npos ? at : at + key.size();
}

/// Reads the header from parser events. A tree would silently keep the last of repeated keys and grow with the depth of a hostile file; here anything
/// that the format does not allow in its place ends the parse.
class HeaderReader final : public nlohmann::json_sax<json> {
 public:
  struct Range {
    std::int64_t begin, end;
    std::map<std::string, ArrayView>::iterator tensor;
    bool boolean;
  };
  std::map<std::string, std::string> metadata;
  std::map<std::string, ArrayView> tensors;  // data still null
  std::vector<Range> ranges;
  std::string problem;

  bool start_object(std::size_t) override {
    if (at_ == At::outside) return enter(At::header);
    if (at_ != At::header) return unexpected();
    dtype_.reset(), shape_.reset(), offsets_.reset();
    return enter(name_ == kMetadata ? At::metadata : At::tensor);
  }

  bool key(std::string& key) override {
    if (at_ == At::metadata) {
      field_ = key;
      return !metadata.contains(key) || refuse(fmt::format("{} has {} twice", kMetadata, shown(key)));
    }
    if (at_ == At::tensor) {
      field_ = key;
      const bool known = (key == "dtype" && !dtype_) || (key == "shape" && !shape_) || (key == "data_offsets" && !offsets_);
      return known || refuse(fmt::format("{} has an unknown or repeated field {}", tensor(name_), shown(key)));
    }
    name_ = key;
    const bool repeated = key == kMetadata ? std::exchange(seen_metadata_, true) : tensors.contains(key);
    return !repeated || refuse(tensor(name_) + " appears twice");
  }

  bool string(std::string& value) override {
    if (at_ == At::metadata) return metadata.emplace(field_, std::move(value)).second;
    if (at_ != At::tensor || field_ != "dtype") return unexpected();
    dtype_ = std::move(value);
    return true;
  }

  bool start_array(std::size_t) override {
    if (at_ != At::tensor || field_ == "dtype") return unexpected();
    list().emplace();
    return enter(At::list);
  }

  bool number_unsigned(std::uint64_t value) override {
    if (at_ != At::list || value > INT64_MAX) return unexpected();
    list()->push_back(static_cast<std::int64_t>(value));
    return list()->size() <= kMaxDimensions || refuse(fmt::format("{} has a {} of more than {} numbers", tensor(name_), field_, kMaxDimensions));
  }

  bool end_array() override { return enter(At::tensor); }
  bool end_object() override {
    if (at_ == At::header) return enter(At::outside);
    return (at_ == At::metadata || add_tensor()) && enter(At::header);
  }

  bool null() override { return unexpected(); }
  bool boolean(bool) override { return unexpected(); }
  bool number_integer(std::int64_t) override { return unexpected(); }  // the negative ones
  bool number_float(double, const std::string&) override { return unexpected(); }
  bool binary(binary_t&) override { return unexpected(); }
  bool parse_error(std::size_t position, const std::string&, const json::exception&) override {
    return refuse(fmt::format("its header is no valid JSON (at byte {})", position));
  }

 private:
  enum class At { outside, header, metadata, tensor, list };

  bool enter(At at) {
    at_ = at;
    return true;
  }

  bool refuse(std::string what) {
    problem = std::move(what);
    return false;
  }

  bool unexpected() {
    if (at_ == At::outside) return refuse("its header is no JSON object");
    if (at_ == At::header) return refuse(tensor(name_) + " is no JSON object");
    if (at_ == At::metadata) return refuse(fmt::format("{} holds something other than strings", kMetadata));
    return refuse(
        fmt::format("{} has a bad {}: it must be {}", tensor(name_), field_, field_ == "dtype" ? "a string" : "a list of whole numbers >= 0"));
  }

  std::optional<Shape>& list() { return field_ == "shape" ? shape_ : offsets_; }

  bool add_tensor() {
    if (!dtype_ || !shape_ || !offsets_) return refuse(tensor(name_) + " lacks a dtype, a shape or data_offsets");
    const auto type = std::ranges::find(kElementTypes, *dtype_, &ElementType::name);
    if (type == kElementTypes.end()) {
      return refuse(fmt::format("{} has dtype {}, which is not supported", tensor(name_), shown(*dtype_)));
    }
    const auto bytes = checked_bytes(type->dtype, *shape_);
    if (!bytes) return refuse(tensor(name_) + " has an impossibly large shape");
    const auto& range = *offsets_;
    if (range.size() != 2 || range[0] > range[1] || range[1] - range[0] != *bytes) {
      return refuse(fmt::format("{} has the data_offsets [{}], its shape [{}] of {} needs {} bytes", tensor(name_), fmt::join(range, ", "),
                                fmt::join(*shape_, ", "), *dtype_, *bytes));
    }
    const auto entry = tensors.emplace(name_, ArrayView{type->dtype, *std::move(shape_), nullptr}).first;
    ranges.push_back({range[0], range[1], entry, *dtype_ == "BOOL"});
    return true;
  }

  At at_ = At::outside;
  std::string name_, field_;  // the keys that lead to this place
  bool seen_metadata_ = false;
  std::optional<std::string> dtype_;
  std::optional<Shape> shape_, offsets_;
};

}  // namespace

Safetensors Safetensors::read(const fs::path& path, Digest digest) {
  const auto refuse = [&](const std::string& what) { mnemo::refuse(path, what); };
  Safetensors file;
  file.path_ = path;
  file.bytes_ = read_file(path);
  auto& bytes = file.bytes_;

  if (bytes.size() < kLengthBytes) refuse("is no safetensors file: it is shorter than 8 bytes");
  std::uint64_t header_bytes = 0;
  std::memcpy(&header_bytes, bytes.data(), kLengthBytes);
  if (header_bytes > kMaxHeaderBytes || header_bytes > bytes.size() - kLengthBytes) {
    refuse(fmt::format("is no safetensors file, or is cut off: a header of {} bytes in a file of {}", header_bytes, bytes.size()));
  }
  const auto header = std::string_view(bytes).substr(kLengthBytes, header_bytes);
  if (!header.starts_with('{')) refuse("is no safetensors file: its header is no JSON object");
  if (header.find('\0') != header.npos) refuse("its header is no valid JSON");  // the parser takes it for the end
  HeaderReader reader;
  if (!json::sax_parse(header.begin(), header.end(), &reader)) refuse(reader.problem);
  file.metadata_ = std::move(reader.metadata);
  file.tensors_.swap(reader.tensors);  // keeps the iterators in reader.ranges

  if (const auto found = file.metadata_.find("digest"); found != file.metadata_.end()) {
    const auto at = found->second.size() == kBlankDigest.size() ? find_digest(header, found->second) : header.npos;
    if (at == header.npos) refuse("its digest is not one that mnemo writes");
    bytes.replace(kLengthBytes + at, kBlankDigest.size(), kBlankDigest);
    if (hash_of(bytes) != found->second) refuse("is damaged: its bytes do not match its digest");
  } else if (digest == Digest::required) {
    refuse("has no digest, so that damage would go unseen");
  }

  const auto payload = std::string_view(bytes).substr(kLengthBytes + header_bytes);
  std::ranges::sort(reader.ranges, {}, [](const auto& range) { return std::pair(range.begin, range.end); });
  std::int64_t position = 0;
  for (const auto& [begin, end, entry, boolean] : reader.ranges) {
    auto& [name, view] = *entry;
    if (begin != position) {
      refuse(fmt::format("{} begins at byte {} of the payload, where {} is due: a gap or an overlap", tensor(name), begin, position));
    }
    if (end > std::ssize(payload)) {
      refuse(fmt::format("{} ends at byte {} of a payload of {}: the file is cut off", tensor(name), end, payload.size()));
    }
    const auto elements = payload.substr(static_cast<std::size_t>(begin), static_cast<std::size_t>(end - begin));
    if (boolean && std::ranges::any_of(elements, [](unsigned char b) { return b > 1; })) {
      refuse(tensor(name) + " holds a bool that is neither 0 nor 1");
    }
    const auto* data = elements.data();
    if (reinterpret_cast<std::uintptr_t>(data) % size_of(view.dtype) != 0) {
      data = file.aligned_.emplace_back(elements.begin(), elements.end()).data();
    }
    view.data = reinterpret_cast<const std::byte*>(data);
    position = end;
  }
  if (position != std::ssize(payload)) {
    refuse(fmt::format("has a payload of {} bytes, its tensors end at {}", payload.size(), position));
  }
  return file;
}

const ArrayView& Safetensors::at(const std::string& name) const {
  const auto found = tensors_.find(name);
  if (found == tensors_.end()) refuse(path_, "has no " + tensor(name));
  return found->second;
}

const ArrayView& Safetensors::checked(const std::string& name, Dtype dtype, std::int64_t size) const {
  const auto& view = at(name);
  if (view.dtype == dtype && (size < 0 || num_elements(view.shape) == size)) return view;
  refuse(path_, fmt::format("{} holds {} {}, expected {}{}", tensor(name), num_elements(view.shape), name_of(view.dtype),
                            size < 0 ? "" : fmt::format("{} ", size), name_of(dtype)));
}

void write_safetensors(const fs::path& path, const std::vector<std::pair<std::string, ArrayView>>& tensors,
                       std::map<std::string, std::string> metadata) {
  std::vector<const std::pair<std::string, ArrayView>*> order;
  for (const auto& item : tensors) order.push_back(&item);
  std::ranges::stable_sort(order, std::greater(), [](const auto* item) { return size_of(item->second.dtype); });

  metadata["digest"] = kBlankDigest;
  auto header = fmt::format("{{\"{}\":{}", kMetadata, json(metadata).dump(-1, ' ', true, json::error_handler_t::replace));
  std::set<std::string> names{std::string(kMetadata)};
  std::size_t position = 0;
  for (const auto* item : order) {
    const auto& [name, view] = *item;
    if (!names.insert(name).second) throw Error(ExitCode::bug, fmt::format("{}: {} twice", path.string(), tensor(name)));
    header += fmt::format(",{}:{{\"dtype\":\"{}\",\"shape\":[{}],\"data_offsets\":[{},{}]}}", json_string(name),
                          std::ranges::find(kElementTypes, view.dtype, &ElementType::dtype)->name, fmt::join(view.shape, ","), position,
                          position + view.bytes());
    position += view.bytes();
  }
  header += '}';
  header.resize((header.size() + 7) / 8 * 8, ' ');
  const std::uint64_t header_bytes = header.size();
  const std::string_view length(reinterpret_cast<const char*>(&header_bytes), kLengthBytes);

  AtomicFile file(path);
  Hasher hash;
  const auto write = [&](std::string_view bytes) {
    hash.update(bytes);
    file.write(bytes);
  };
  write(length);
  write(header);
  for (const auto* item : order) write(item->second.as_bytes());
  file.overwrite(kLengthBytes + find_digest(header, kBlankDigest), hash.digest());
  file.commit();
}

}  // namespace mnemo
