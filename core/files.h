#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace mnemo {

namespace fs = std::filesystem;

/// Throws Error{data} `PATH: what`: a file that is damaged or of another kind.
[[noreturn]] void refuse(const fs::path& path, std::string_view what);

/// XXH3-128 of `bytes`, 32 lower-case hex digits.
std::string hash_of(std::string_view bytes);

/// XXH3-128 of bytes that come in pieces.
class Hasher {
 public:
  Hasher();
  ~Hasher();
  Hasher(Hasher&&) noexcept;
  Hasher& operator=(Hasher&&) noexcept;

  void update(std::string_view bytes);
  /// hash_of all bytes so far.
  std::string digest() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// Whole content of a file. Throws Error{io}, also when it is larger than `max_bytes`.
std::string read_file(const fs::path& path, std::uint64_t max_bytes = UINT64_MAX);

/// A file that is read in parts, all from the same file even if another takes its name meanwhile. Failures throw Error{io}.
class InputFile {
 public:
  explicit InputFile(fs::path path);
  ~InputFile();
  InputFile(InputFile&& other) noexcept : path_(std::move(other.path_)), descriptor_(std::exchange(other.descriptor_, -1)) {}
  InputFile& operator=(InputFile&&) = delete;

  const fs::path& path() const { return path_; }
  /// The current size.
  std::uint64_t size() const;
  /// The bytes [offset, offset + count), or as many of them as there are.
  std::string read(std::uint64_t offset, std::uint64_t count) const;

 private:
  fs::path path_;
  int descriptor_;
};

/// Whether the path exists, links followed. Throws Error{io} if that cannot be known (no permission, a loop, a name too long).
bool path_exists(const fs::path& path);

/// The absolute path, links and dots resolved as far as it exists. Throws Error{io}.
fs::path canonical_path(const fs::path& path);

/// The path with a leading `~` or `~/` replaced by $HOME, which shells do not do after `=`. Throws Error{usage} for other users' homes, and if HOME
/// is not set.
fs::path expanded_path(const fs::path& path);

/// Creates the directory and its parents. Throws Error{cannot_create} naming the path (Error{io} if the disk is full).
void make_directories(const fs::path& path);

/// Flushes the entries of a directory to disk, if the file system can. An empty path is the working directory.
void sync_directory(const fs::path& path);

/// The entries of a directory; none if it does not exist. Throws Error{io} if it cannot be listed or is a dangling link.
std::vector<fs::path> entries_of(const fs::path& directory);

/// A file that appears under its name only when it is complete. Bytes go to `<path>.tmp`; commit() fsyncs them, renames, and fsyncs the directory (no
/// fsync unless `durable`). Destroyed without commit() it leaves nothing behind. Every failure throws Error{io} (Error{cannot_create} on open, unless
/// the disk is full); after one, the object can only be destroyed.
class AtomicFile {
 public:
  explicit AtomicFile(fs::path path, bool durable = true);
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  void write(std::string_view bytes);
  /// Overwrites earlier bytes, from `offset` on.
  void overwrite(std::uint64_t offset, std::string_view bytes);
  void commit();

 private:
  fs::path path_, temporary_;
  int descriptor_ = -1;
  std::uint64_t size_ = 0;
  bool durable_;
};

/// AtomicFile in one call.
void write_atomically(const fs::path& path, std::string_view bytes, bool durable = true);

/// The state of an append-only file at a checkpoint: its size and the XXH3-128 of its bytes after the header.
struct FileMark {
  std::int64_t size = 0;
  std::string hash;
  bool operator==(const FileMark&) const = default;
};

/// An append-only file. Opened, written and closed at each call, so that a run holds no open files. Bytes past size() are leftovers of an interrupted
/// process: append() writes over them. `header` bytes at the front may be rewritten and are not part of the hash.
class AppendFile {
 public:
  /// Starts at size `header` without touching the file: all that it holds counts as leftovers until rewind() claims it.
  explicit AppendFile(fs::path path, std::int64_t header = 0) : path_(std::move(path)), header_(header), size_(header) {}

  const fs::path& path() const { return path_; }
  std::int64_t size() const { return size_; }
  /// Writes `bytes` at size(), then `header` at the front. Throws Error{io} on a short write or a full disk (Error{cannot_create} if the file cannot
  /// be created for another reason); size() and the hash then stay, so that the call can be repeated.
  void append(std::string_view bytes, std::string_view header = {});
  /// Writes `header` at the front, where it must fit.
  void write_header(std::string_view header);
  /// Flushes to disk; a new file needs its directory synced too.
  void sync();
  FileMark mark() const { return {size_, hash_.digest()}; }
  /// Goes back to a mark. Throws Error{data} and changes nothing if the bytes up to it are missing or differ.
  void rewind(const FileMark& mark);
  /// Cuts what lies past size(). Text files only: a mapped array must never shrink.
  void truncate();

 private:
  fs::path path_;
  std::int64_t header_, size_;
  Hasher hash_;
};

/// Exclusive use of a directory while this object lives, by an open-file-description lock on `<directory>/LOCK`. Creates the directory if it is
/// missing, and locks the one that has this name now, even if another process moves an earlier one away meanwhile. The file names the holder (host,
/// boot id, pid, job id). The kernel drops the lock when the process ends in any way (a child forked without exec shares it).
class DirectoryLock {
 public:
  /// Throws Error{locked} naming the holder. If the file system has no locks, sets unsupported() and holds nothing.
  explicit DirectoryLock(const fs::path& directory);
  ~DirectoryLock();
  DirectoryLock(const DirectoryLock&) = delete;
  DirectoryLock& operator=(const DirectoryLock&) = delete;
  bool unsupported() const { return unsupported_; }

 private:
  bool take(const fs::path& directory);

  int descriptor_ = -1;
  bool unsupported_ = false;
};

}  // namespace mnemo
