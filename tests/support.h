#pragma once

#include "core/error.h"

#include <stdlib.h>

#include <atomic>
#include <cstddef>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <stdexcept>
#include <string>
#include <string_view>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace mnemo::test {

/// A fresh directory, removed with everything in it at the end of the scope.
class TemporaryDirectory {
 public:
  TemporaryDirectory() : path_((std::filesystem::temp_directory_path() / "mnemo_test_XXXXXX").string()) {
    if (!::mkdtemp(path_.data())) throw std::runtime_error("cannot make " + path_);
  }
  ~TemporaryDirectory() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TemporaryDirectory(const TemporaryDirectory&) = delete;
  TemporaryDirectory& operator=(const TemporaryDirectory&) = delete;

  std::filesystem::path path() const { return path_; }
  std::filesystem::path operator/(std::string_view name) const { return path() / name; }

 private:
  std::string path_;
};

inline std::string slurp(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

/// Makes `bytes` the content of the file, in place. (Truncating it to nothing first would make ext4 wait for the disk.)
inline void spill(const std::filesystem::path& path, std::string_view bytes) {
  std::ofstream(path, std::ios::app);
  std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
  file.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  file.close();
  std::filesystem::resize_file(path, bytes.size());
}

/// Fails the test unless `action` throws an Error with this code whose message holds `part`.
template <class Action>
void expect_error(ExitCode code, std::string_view part, Action action) {
  try {
    action();
    ADD_FAILURE() << "nothing thrown, expected: " << part;
  } catch (const Error& error) {
    EXPECT_EQ(static_cast<int>(error.code()), static_cast<int>(code)) << error.what();
    EXPECT_THAT(error.what(), ::testing::HasSubstr(std::string(part)));
  }
}

/// One to four random edits of the kinds that break parsers.
inline std::string mutated(std::string bytes, std::mt19937_64& random) {
  static constexpr std::string_view kPieces[] = {"{",
                                                 "}",
                                                 "[",
                                                 "]",
                                                 "(",
                                                 ")",
                                                 "\"",
                                                 "'",
                                                 ":",
                                                 ",",
                                                 "\\",
                                                 " ",
                                                 "\n",
                                                 "-",
                                                 "0",
                                                 "1",
                                                 "9",
                                                 ".",
                                                 "e5",
                                                 "L",
                                                 "null",
                                                 "{}",
                                                 "[]",
                                                 "()",
                                                 "\xff",
                                                 "<f8",
                                                 "|O",
                                                 "F16",
                                                 "True",
                                                 "4294967296",
                                                 "9223372036854775807",
                                                 "18446744073709551616"};
  const auto below = [&](std::size_t n) { return n == 0 ? 0 : static_cast<std::size_t>(random() % n); };
  for (auto edits = 1 + below(4); edits > 0; --edits) {
    const auto at = below(bytes.size());
    const auto length = 1 + below(8);
    switch (below(5)) {
      case 0:
        if (!bytes.empty()) bytes[at] = static_cast<char>(bytes[at] ^ (1 << below(8)));
        break;
      case 1:
        if (!bytes.empty()) bytes[at] = static_cast<char>(below(256));
        break;
      case 2: bytes.erase(at, length); break;
      case 3: bytes.insert(below(bytes.size()), bytes.substr(at, length)); break;
      case 4: bytes.insert(at, kPieces[below(std::size(kPieces))]); break;
    }
  }
  return bytes;
}

/// Bytes that operator new has handed out; counted where the test binary replaces it (safetensors_test.cpp).
struct Heap {
  static inline std::atomic<std::size_t> live = 0, peak = 0;
};

/// The most that `action` had allocated at one time.
template <class Action>
std::size_t peak_bytes_of(Action action) {
  const std::size_t before = Heap::live;
  Heap::peak = before;
  action();
  return Heap::peak - before;
}

}  // namespace mnemo::test
