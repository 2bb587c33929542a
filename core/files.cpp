#include "core/files.h"

#include "core/error.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <fstream>
#include <optional>
#include <system_error>

#include <fmt/format.h>
#include <nlohmann/json.hpp>
#include <xxhash.h>

namespace mnemo {
namespace {

/// Throws `path: what: errno in words`.
[[noreturn]] void fail(ExitCode code, const fs::path& path, std::string_view what) {
  const int error = errno;
  throw Error(code, fmt::format("{}: {}: {}", path.string(), what, std::generic_category().message(error)));
}

/// The disk or quota is full: an I/O error even when a file is being created.
bool is_full(int error) { return error == ENOSPC || error == EDQUOT; }

/// Repeats a system call that a signal interrupted.
template <class Call>
auto uninterrupted(Call call) {
  auto result = call();
  while (result < 0 && errno == EINTR) result = call();
  return result;
}

/// Refuses named pipes instead of waiting for their other end.
int open_file(const fs::path& path, int flags) {
  const int descriptor = uninterrupted([&] { return ::open(path.c_str(), flags | O_CLOEXEC | O_NONBLOCK, 0666); });
  if (descriptor < 0 && (flags & O_CREAT) && !is_full(errno)) fail(ExitCode::cannot_create, path, "cannot create or open");
  if (descriptor < 0) fail(ExitCode::io, path, "cannot open");
  struct stat status {};
  if (::fstat(descriptor, &status) == 0 && !S_ISREG(status.st_mode) && !S_ISDIR(status.st_mode)) {
    ::close(descriptor);
    throw Error(ExitCode::io, fmt::format("{}: is no regular file", path.string()));
  }
  return descriptor;
}

/// A full disk may show only here (NFS, quotas). Linux closes the descriptor even if it reports an error.
void close_file(int descriptor, const fs::path& path) {
  if (::close(descriptor) < 0 && errno != EINTR) fail(ExitCode::io, path, "cannot write");
}

/// An open file that an exception closes.
class Descriptor {
 public:
  Descriptor(const fs::path& path, int flags) : path_(path), value_(open_file(path, flags)) {}
  ~Descriptor() {
    if (value_ >= 0) ::close(value_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;

  operator int() const { return value_; }
  int release() { return std::exchange(value_, -1); }
  void close() { close_file(release(), path_); }

 private:
  const fs::path& path_;
  int value_;
};

void write_at(int descriptor, const fs::path& path, std::uint64_t offset, std::string_view bytes) {
  while (!bytes.empty()) {
    errno = ENOSPC;  // the reason if nothing is written
    const auto written = uninterrupted([&] { return ::pwrite(descriptor, bytes.data(), bytes.size(), static_cast<off_t>(offset)); });
    if (written <= 0) fail(ExitCode::io, path, "cannot write");
    offset += static_cast<std::uint64_t>(written);
    bytes.remove_prefix(static_cast<std::size_t>(written));
  }
}

void sync_file(int descriptor, const fs::path& path) {
  if (uninterrupted([&] { return ::fsync(descriptor); }) < 0) fail(ExitCode::io, path, "cannot write");
}

/// The error of a file system that lacks such a call.
bool is_unsupported(int error) { return error == EINVAL || error == ENOSYS || error == EOPNOTSUPP; }

std::string hex(XXH128_hash_t hash) { return fmt::format("{:016x}{:016x}", hash.high64, hash.low64); }

std::string holder_of_this_process() {
  std::array<char, 256> host{};
  ::gethostname(host.data(), host.size() - 1);
  std::string boot_id;
  std::getline(std::ifstream("/proc/sys/kernel/random/boot_id"), boot_id);
  const char* job = std::getenv("SLURM_JOB_ID");
  const nlohmann::json holder = {{"host", host.data()}, {"boot_id", boot_id}, {"pid", ::getpid()}, {"job_id", job ? job : ""}};
  return holder.dump(-1, ' ', true, nlohmann::json::error_handler_t::replace) + "\n";
}

/// The holder in words. Its file may be half written, or not be ours.
std::string describe_holder(const std::string& text) {
  try {
    const auto holder = nlohmann::json::parse(text);
    const auto job = holder.at("job_id").get<std::string>();
    return fmt::format("process {} on host {}{}", holder.at("pid").get<std::int64_t>(), holder.at("host").get<std::string>(),
                       job.empty() ? "" : fmt::format(" (job {})", job));
  } catch (const nlohmann::json::exception&) {
    return "another process";
  }
}

}  // namespace

void refuse(const fs::path& path, std::string_view what) { throw Error(ExitCode::data, fmt::format("{}: {}", path.string(), what)); }

struct Hasher::State {
  XXH3_state_t xxh3;
};

Hasher::Hasher() : state_(std::make_unique<State>()) { XXH3_128bits_reset(&state_->xxh3); }
Hasher::~Hasher() = default;
Hasher::Hasher(Hasher&&) noexcept = default;
Hasher& Hasher::operator=(Hasher&&) noexcept = default;

void Hasher::update(std::string_view bytes) {
  if (!bytes.empty()) XXH3_128bits_update(&state_->xxh3, bytes.data(), bytes.size());
}

std::string Hasher::digest() const { return hex(XXH3_128bits_digest(&state_->xxh3)); }

std::string hash_of(std::string_view bytes) { return hex(XXH3_128bits(bytes.data(), bytes.size())); }

InputFile::InputFile(fs::path path) : path_(std::move(path)), descriptor_(open_file(path_, O_RDONLY)) {}

InputFile::~InputFile() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

std::uint64_t InputFile::size() const {
  struct stat status {};
  if (::fstat(descriptor_, &status) < 0) fail(ExitCode::io, path_, "cannot read");
  return static_cast<std::uint64_t>(status.st_size);
}

std::string InputFile::read(std::uint64_t offset, std::uint64_t count) const {
  const auto end = size();
  std::string bytes(std::min(count, end - std::min(offset, end)), '\0');
  std::size_t done = 0;
  while (done < bytes.size()) {
    const auto got = uninterrupted([&] { return ::pread(descriptor_, bytes.data() + done, bytes.size() - done, static_cast<off_t>(offset + done)); });
    if (got < 0) fail(ExitCode::io, path_, "cannot read");
    if (got == 0) break;  // the file was truncated meanwhile
    done += static_cast<std::size_t>(got);
  }
  bytes.resize(done);
  return bytes;
}

std::string read_file(const fs::path& path, std::uint64_t max_bytes) {
  const InputFile file(path);
  const auto size = file.size();
  if (size > max_bytes) {
    throw Error(ExitCode::io, fmt::format("{}: is too large: {} bytes, at most {} are read", path.string(), size, max_bytes));
  }
  return file.read(0, size);
}

bool path_exists(const fs::path& path) {
  std::error_code error;
  const auto status = fs::status(path, error);
  if (status.type() == fs::file_type::none) throw Error(ExitCode::io, fmt::format("{}: cannot look for it: {}", path.string(), error.message()));
  return fs::exists(status);
}

fs::path canonical_path(const fs::path& path) {
  try {
    return fs::weakly_canonical(fs::absolute(path));
  } catch (const fs::filesystem_error& error) {
    throw Error(ExitCode::io, fmt::format("{}: cannot look for it: {}", path.string(), error.code().message()));
  }
}

fs::path expanded_path(const fs::path& path) {
  const auto& text = path.native();
  if (!text.starts_with('~')) return path;
  if (text.size() > 1 && text[1] != '/') {
    throw Error(ExitCode::usage,
                fmt::format("{0}: only ~ and ~/ mean a home folder here; write the path out (./{0} for a name that begins so)", text));
  }
  const char* home = std::getenv("HOME");
  if (home == nullptr || *home == '\0') throw Error(ExitCode::usage, fmt::format("{}: HOME is not set; write the path out", text));
  return text.size() > 2 ? fs::path(home) / text.substr(2) : fs::path(home);
}

void make_directories(const fs::path& path) {
  std::error_code error;
  fs::create_directories(path, error);
  if (error) {
    throw Error(is_full(error.value()) ? ExitCode::io : ExitCode::cannot_create,
                fmt::format("{}: cannot make this directory: {}", path.string(), error.message()));
  }
}

void sync_directory(const fs::path& path) {
  const auto directory = path.empty() ? fs::path(".") : path;
  const Descriptor descriptor(directory, O_RDONLY | O_DIRECTORY);
  if (uninterrupted([&] { return ::fsync(descriptor); }) < 0 && !is_unsupported(errno) && errno != EPERM) {
    fail(ExitCode::io, directory, "cannot write");
  }
}

std::vector<fs::path> entries_of(const fs::path& directory) {
  std::vector<fs::path> entries;
  std::error_code error, unknown;
  for (fs::directory_iterator entry(directory, error); !error && entry != fs::directory_iterator(); entry.increment(error)) {
    entries.push_back(entry->path());
  }
  const bool is_link = fs::is_symlink(fs::symlink_status(directory, unknown));
  if (error == std::errc::no_such_file_or_directory && !is_link) return {};
  if (error)
    throw Error(ExitCode::io, fmt::format("{}: cannot list this {}: {}", directory.string(), is_link ? "link" : "directory", error.message()));
  return entries;
}

AtomicFile::AtomicFile(fs::path path, bool durable) : path_(std::move(path)), temporary_(fs::path(path_) += ".tmp"), durable_(durable) {
  descriptor_ = open_file(temporary_, O_WRONLY | O_CREAT | O_TRUNC);
}

AtomicFile::~AtomicFile() {
  if (descriptor_ >= 0) ::close(descriptor_);
  if (!temporary_.empty()) ::unlink(temporary_.c_str());
}

void AtomicFile::write(std::string_view bytes) {
  write_at(descriptor_, path_, size_, bytes);
  size_ += bytes.size();
}

void AtomicFile::overwrite(std::uint64_t offset, std::string_view bytes) { write_at(descriptor_, path_, offset, bytes); }

void AtomicFile::commit() {
  if (durable_) sync_file(descriptor_, path_);
  close_file(std::exchange(descriptor_, -1), path_);
  if (::rename(temporary_.c_str(), path_.c_str()) < 0) fail(ExitCode::io, path_, "cannot replace");
  temporary_.clear();
  if (durable_) sync_directory(path_.parent_path());
}

void write_atomically(const fs::path& path, std::string_view bytes, bool durable) {
  AtomicFile file(path, durable);
  file.write(bytes);
  file.commit();
}

void AppendFile::append(std::string_view bytes, std::string_view header) {
  if (static_cast<std::int64_t>(header.size()) > header_) {
    throw Error(ExitCode::bug, fmt::format("{}: a header of {} bytes in room for {}", path_.string(), header.size(), header_));
  }
  Descriptor file(path_, O_WRONLY | O_CREAT);
  write_at(file, path_, static_cast<std::uint64_t>(size_), bytes);
  write_at(file, path_, 0, header);
  file.close();
  hash_.update(bytes);
  size_ += static_cast<std::int64_t>(bytes.size());
}

void AppendFile::write_header(std::string_view header) { append({}, header); }

void AppendFile::sync() {
  Descriptor file(path_, O_WRONLY | O_CREAT);
  sync_file(file, path_);
  file.close();
}

void AppendFile::rewind(const FileMark& mark) {
  constexpr std::int64_t kBlock = 1 << 20;
  if (mark.size < header_) refuse(path_, fmt::format("its mark, {} bytes, lies before the end of its header", mark.size));
  Hasher hash;
  if (mark.size > header_) {  // else there may be no file yet
    if (::access(path_.c_str(), F_OK) < 0 && errno == ENOENT) refuse(path_, "is missing");
    const InputFile file(path_);
    for (auto offset = header_; offset < mark.size;) {
      const auto wanted = std::min(kBlock, mark.size - offset);
      const auto bytes = file.read(static_cast<std::uint64_t>(offset), static_cast<std::uint64_t>(wanted));
      if (std::ssize(bytes) < wanted) refuse(path_, fmt::format("ends before the {} bytes of its mark", mark.size));
      hash.update(bytes);
      offset += wanted;
    }
  }
  if (hash.digest() != mark.hash) refuse(path_, fmt::format("its first {} bytes are not those that were written", mark.size));
  size_ = mark.size;
  hash_ = std::move(hash);
}

void AppendFile::truncate() {
  Descriptor file(path_, O_WRONLY | O_CREAT);
  if (uninterrupted([&] { return ::ftruncate(file, size_); }) < 0) fail(ExitCode::io, path_, "cannot cut");
  file.close();
}

DirectoryLock::DirectoryLock(const fs::path& directory) {
  for (int attempts = 100; !take(directory); --attempts) {
    if (attempts == 0) throw Error(ExitCode::io, fmt::format("{}: cannot lock: it is moved again and again", directory.string()));
  }
}

/// False if the directory was moved away meanwhile.
bool DirectoryLock::take(const fs::path& directory) {
  constexpr std::uint64_t kMaxHolder = 4096;
  const auto path = directory / "LOCK";
  make_directories(directory);
  std::optional<Descriptor> opened;
  try {
    opened.emplace(path, O_RDWR | O_CREAT);
  } catch (const Error&) {
    std::error_code unknown;
    if (fs::status(directory, unknown).type() != fs::file_type::not_found) throw;
    return false;
  }
  auto& file = *opened;
  struct flock whole_file {};
  whole_file.l_type = F_WRLCK;
  const bool is_locked = uninterrupted([&] { return ::fcntl(file, F_OFD_SETLK, &whole_file); }) == 0;
  if (!is_locked) {
    unsupported_ = is_unsupported(errno) || errno == ENOLCK || errno == EBADF;
    if (unsupported_) return true;
    if (errno != EAGAIN && errno != EACCES) fail(ExitCode::io, path, "cannot lock");
  }
  struct stat mine {
  }, named{};
  if (::fstat(file, &mine) < 0) fail(ExitCode::io, path, "cannot lock");
  if (::stat(path.c_str(), &named) < 0 && errno != ENOENT) fail(ExitCode::io, path, "cannot lock");
  if (mine.st_dev != named.st_dev || mine.st_ino != named.st_ino) return false;
  if (!is_locked) {
    const auto holder = describe_holder(InputFile(path).read(0, kMaxHolder));
    throw Error(ExitCode::locked, fmt::format("{}: in use by {}", directory.string(), holder));
  }
  if (::ftruncate(file, 0) < 0) fail(ExitCode::io, path, "cannot write");
  write_at(file, path, 0, holder_of_this_process());
  descriptor_ = file.release();
  return true;
}

DirectoryLock::~DirectoryLock() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

}  // namespace mnemo
