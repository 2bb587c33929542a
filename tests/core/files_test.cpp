#include "core/files.h"

#include "core/error.h"
#include "tests/support.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdarg>
#include <cstdlib>
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

namespace {

/// What the disk does wrong in the present scope.
struct Fault {
  std::string call;  // this one fails
  int error = 0;
  bool slow = false;  // every other call is interrupted, writes and reads take three bytes at a time

  bool hits(std::string_view name) const {
    if (call == name) errno = error;
    return call == name;
  }
};
Fault fault;

struct ScopedFault {
  explicit ScopedFault(Fault f) { fault = std::move(f); }
  ~ScopedFault() { fault = {}; }
};

std::function<void()> before_lock;  // what another process does before the next lock is taken

bool is_directory(int fd) {
  struct stat status {};
  return ::fstat(fd, &status) == 0 && S_ISDIR(status.st_mode);
}

bool interrupted() {
  static bool odd = false;
  odd = !odd;
  if (fault.slow && odd) errno = EINTR;
  return fault.slow && odd;
}

}  // namespace

// core/files.cpp calls these in place of the C library's.
extern "C" {
ssize_t pwrite(int fd, const void* bytes, size_t count, off_t offset) {
  if (fault.hits("pwrite") || interrupted()) return -1;
  return syscall(SYS_pwrite64, fd, bytes, fault.slow ? std::min<size_t>(count, 3) : count, offset);
}
ssize_t pread(int fd, void* bytes, size_t count, off_t offset) {
  if (fault.hits("pread") || interrupted()) return -1;
  return syscall(SYS_pread64, fd, bytes, fault.slow ? std::min<size_t>(count, 3) : count, offset);
}
int fsync(int fd) {
  const bool fails = fault.hits("fsync") || (is_directory(fd) && fault.hits("fsync of a directory"));
  return fails || interrupted() ? -1 : static_cast<int>(syscall(SYS_fsync, fd));
}
int close(int fd) {
  const auto result = static_cast<int>(syscall(SYS_close, fd));
  return fault.hits("close") ? -1 : result;
}
int fcntl(int fd, int command, ...) {
  va_list arguments;
  va_start(arguments, command);
  void* argument = va_arg(arguments, void*);
  va_end(arguments);
  if (command == F_OFD_SETLK && before_lock) std::exchange(before_lock, nullptr)();
  return fault.hits("fcntl") ? -1 : static_cast<int>(syscall(SYS_fcntl, fd, command, argument));
}
}

namespace mnemo {
namespace {

using test::expect_error;
using test::slurp;
using test::spill;
using test::TemporaryDirectory;
using ::testing::HasSubstr;

std::vector<std::string> names_in(const fs::path& directory) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(directory)) names.push_back(entry.path().filename().string());
  return names;
}

TEST(Hash, KnownAnswers) {
  EXPECT_EQ(hash_of({}), "99aa06d3014798d86001c324468d497f");
  EXPECT_EQ(hash_of("abc"), "06b05ab6733a618578af5f94892f3950");
}

TEST(Hash, InPiecesAsAtOnce) {
  std::string bytes;
  for (int i = 0; i < 3000; ++i) bytes += static_cast<char>(i * 37);
  for (std::size_t piece : {1, 7, 255, 256, 257, 1024}) {
    Hasher hash;
    for (std::size_t at = 0; at < bytes.size(); at += piece) {
      hash.update(std::string_view(bytes).substr(at, piece));
      hash.update({});
    }
    EXPECT_EQ(hash.digest(), hash_of(bytes));
  }
}

TEST(ReadFile, WholeAndInParts) {
  const TemporaryDirectory directory;
  const auto path = directory / "a";
  spill(path, "0123456789");
  EXPECT_EQ(read_file(path), "0123456789");
  EXPECT_EQ(read_file(path, 10), "0123456789");
  expect_error(ExitCode::io, path.string() + ": is too large", [&] { read_file(path, 9); });
  const InputFile file(path);
  EXPECT_EQ(file.size(), 10u);
  EXPECT_EQ(file.read(3, 4), "3456");
  EXPECT_EQ(file.read(8, 1000), "89");
  EXPECT_EQ(file.read(100, UINT64_MAX), "");
  write_atomically(path, "9876543210");
  EXPECT_EQ(file.read(3, 4), "3456");  // the file that was opened
  expect_error(ExitCode::io, "No such file", [&] { read_file(directory / "missing"); });
  expect_error(ExitCode::io, "Is a directory", [&] { read_file(directory.path()); });
  const ScopedFault failing({"pread", EIO});
  expect_error(ExitCode::io, path.string() + ": cannot read: Input/output error", [&] { read_file(path); });
}

TEST(MakeDirectories, NamesWhatItCannotMake) {
  const TemporaryDirectory directory;
  make_directories(directory / "a/b/c");
  make_directories(directory / "a/b/c");
  EXPECT_TRUE(fs::is_directory(directory / "a/b/c"));
  spill(directory / "file", "");
  expect_error(ExitCode::cannot_create, "file/d: cannot make this directory", [&] { make_directories(directory / "file/d"); });
  expect_error(ExitCode::cannot_create, "file: cannot make this directory", [&] { make_directories(directory / "file"); });
}

TEST(NamedPipe, IsRefusedAndNotWaitedFor) {
  const TemporaryDirectory directory;
  const auto path = directory / "pipe";
  ASSERT_EQ(mkfifo(path.c_str(), 0600), 0);
  expect_error(ExitCode::io, path.string() + ": is no regular file", [&] { read_file(path); });
  expect_error(ExitCode::cannot_create, path.string() + ": cannot create or open", [&] { AppendFile(path).append("x"); });
}

TEST(AtomicFile, AppearsOnlyWhenComplete) {
  const TemporaryDirectory directory;
  const auto path = directory / "a";
  for (const std::string old : {"", "old"}) {
    AtomicFile file(path);
    file.write("abcdef");
    file.write("ghi");
    file.overwrite(2, "XY");
    EXPECT_EQ(slurp(path), old.empty() ? "" : "old");
    EXPECT_EQ(fs::exists(path), !old.empty());
    file.commit();
    EXPECT_EQ(slurp(path), "abXYefghi");
    spill(path, "old");
  }
  EXPECT_THAT(names_in(directory.path()), ::testing::ElementsAre("a"));
}

TEST(AtomicFile, LeavesNothingWithoutCommit) {
  const TemporaryDirectory directory;
  spill(directory / "a.tmp", "the rest of a dead process, longer than the new content");
  {
    AtomicFile file(directory / "a");
    file.write("abc");
    EXPECT_TRUE(fs::exists(directory / "a.tmp"));
  }
  EXPECT_TRUE(names_in(directory.path()).empty());
  spill(directory / "a.tmp", "the rest of a dead process, longer than the new content");
  write_atomically(directory / "a", "abc", false);
  EXPECT_EQ(slurp(directory / "a"), "abc");
}

TEST(AtomicFile, FailsToOpenOrToReplace) {
  const TemporaryDirectory directory;
  expect_error(ExitCode::cannot_create, "missing/a.tmp: cannot create", [&] { AtomicFile(directory / "missing/a"); });
  fs::create_directories(directory / "taken/inside");
  expect_error(ExitCode::io, "taken: cannot replace", [&] { write_atomically(directory / "taken", "abc"); });
  EXPECT_FALSE(fs::exists(directory / "taken.tmp"));
}

class FullDisk : public ::testing::TestWithParam<const char*> {};

TEST_P(FullDisk, KeepsTheOldFileAndRemovesTheTemporaryOne) {
  const TemporaryDirectory directory;
  const auto path = directory / "a";
  write_atomically(path, "old");
  {
    const ScopedFault full({GetParam(), ENOSPC});
    expect_error(ExitCode::io, path.string() + ": cannot write: No space left on device", [&] { write_atomically(path, "new"); });
  }
  EXPECT_EQ(slurp(path), "old");
  EXPECT_THAT(names_in(directory.path()), ::testing::ElementsAre("a"));
}

TEST_P(FullDisk, LeavesAnAppendToBeTriedAgain) {
  const TemporaryDirectory directory;
  const auto path = directory / "a";
  AppendFile file(path);
  file.append("one\n");
  const auto before = file.mark();
  {
    const ScopedFault full({GetParam(), ENOSPC});
    expect_error(ExitCode::io, path.string() + ": cannot write: No space left on device", [&] {
      file.append("two\n");
      file.sync();  // where fsync is the one to say it, the append has succeeded
    });
  }
  if (GetParam() == std::string("fsync")) return;
  EXPECT_EQ(file.mark(), before);
  file.append("two\n");
  EXPECT_EQ(slurp(path), "one\ntwo\n");
  EXPECT_EQ(file.mark(), (FileMark{8, hash_of("one\ntwo\n")}));
}

INSTANTIATE_TEST_SUITE_P(At, FullDisk, ::testing::Values("pwrite", "fsync", "close"));

TEST(FileSizeLimit, StopsAWriteHalfWay) {
  const TemporaryDirectory directory;
  const auto old_handler = ::signal(SIGXFSZ, SIG_IGN);
  rlimit old_limit{};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &old_limit), 0);
  const rlimit limit{1000, old_limit.rlim_max};
  AppendFile file(directory / "log");
  file.append(std::string(900, 'a'));
  const auto before = file.mark();
  write_atomically(directory / "a", "old");

  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &limit), 0);
  expect_error(ExitCode::io, "log: cannot write: File too large", [&] { file.append(std::string(200, 'b')); });
  expect_error(ExitCode::io, "a: cannot write: File too large", [&] { write_atomically(directory / "a", std::string(2000, 'c')); });
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &old_limit), 0);
  ::signal(SIGXFSZ, old_handler);

  EXPECT_EQ(file.mark(), before);
  EXPECT_EQ(fs::file_size(directory / "log"), 1000u);  // half a line lies past size()
  file.append("d");
  file.truncate();
  EXPECT_EQ(slurp(directory / "log"), std::string(900, 'a') + "d");
  EXPECT_EQ(slurp(directory / "a"), "old");
  EXPECT_FALSE(fs::exists(directory / "a.tmp"));
}

TEST(SlowDisk, InterruptedAndShortCallsGoOn) {
  const TemporaryDirectory directory;
  const ScopedFault slow({"", 0, true});
  write_atomically(directory / "a", "0123456789");
  EXPECT_EQ(read_file(directory / "a"), "0123456789");
  AppendFile file(directory / "b", 4);
  file.append("0123456789", "head");
  file.sync();
  EXPECT_EQ(read_file(directory / "b"), "head0123456789");
  AppendFile again(directory / "b", 4);
  again.rewind(file.mark());
  EXPECT_EQ(again.mark(), file.mark());
}

TEST(AppendFile, MarksAndRewinds) {
  const TemporaryDirectory directory;
  const auto path = directory / "log";
  AppendFile file(path);
  EXPECT_EQ(file.mark(), (FileMark{0, hash_of("")}));
  EXPECT_FALSE(fs::exists(path));
  file.append("one\n");
  const auto mark = file.mark();
  EXPECT_EQ(mark, (FileMark{4, hash_of("one\n")}));
  file.append("two\n");
  file.sync();

  AppendFile resumed(path);
  resumed.rewind(mark);
  EXPECT_EQ(resumed.size(), 4);
  EXPECT_EQ(slurp(path), "one\ntwo\n");
  resumed.append("2\n");
  EXPECT_EQ(slurp(path), "one\n2\no\n");
  resumed.truncate();
  EXPECT_EQ(slurp(path), "one\n2\n");
  EXPECT_EQ(resumed.mark(), (FileMark{6, hash_of("one\n2\n")}));

  AppendFile afresh(path);
  afresh.append("A");
  afresh.truncate();
  EXPECT_EQ(slurp(path), "A");
}

TEST(AppendFile, RewindsAFileOfManyBlocks) {
  const TemporaryDirectory directory;
  AppendFile file(directory / "big", 10);
  file.append(std::string((1 << 20) + 1, 'x'), "0123456789");
  file.append(std::string((1 << 20) - 1, 'y'));
  AppendFile again(directory / "big", 10);
  const auto peak = test::peak_bytes_of([&] { again.rewind(file.mark()); });
  EXPECT_LT(peak, (1u << 20) + 4096);
  EXPECT_EQ(again.mark(), file.mark());
  EXPECT_EQ(again.size(), 10 + (2 << 20));
}

TEST(AppendFile, HeaderIsRewrittenAndNotHashed) {
  const TemporaryDirectory directory;
  AppendFile file(directory / "a", 4);
  EXPECT_EQ(file.size(), 4);
  file.write_header("v001");
  file.append("row");
  file.write_header("v002");
  EXPECT_EQ(slurp(directory / "a"), "v002row");
  EXPECT_EQ(file.mark(), (FileMark{7, hash_of("row")}));
  expect_error(ExitCode::bug, "header of 5 bytes", [&] { file.append("row", "v0003"); });
  EXPECT_EQ(slurp(directory / "a"), "v002row");
}

TEST(AppendFile, RewindSeesEveryFlippedBitAndChangesNothing) {
  const TemporaryDirectory directory;
  const auto path = directory / "a";
  AppendFile file(path, 2);
  file.append("some bytes", "hh");
  const auto mark = file.mark();
  file.append("more");
  const auto last = file.mark();
  const auto good = slurp(path);
  for (std::size_t bit = 0; bit < 8 * good.size(); ++bit) {
    auto bad = good;
    bad[bit / 8] = static_cast<char>(bad[bit / 8] ^ (1 << bit % 8));
    spill(path, bad);
    const bool counts = bit / 8 >= 2 && bit / 8 < 12;
    if (counts) {
      expect_error(ExitCode::data, "its first 12 bytes are not those", [&] { file.rewind(mark); });
      EXPECT_EQ(file.mark(), last);
    } else {
      EXPECT_NO_THROW(AppendFile(path, 2).rewind(mark));
    }
  }
}

TEST(AppendFile, RewindSeesMissingBytes) {
  const TemporaryDirectory directory;
  const auto path = directory / "a";
  AppendFile file(path, 2);
  file.append("some bytes", "hh");
  for (std::size_t size = 0; size < 12; ++size) {
    spill(path, std::string("hhsome bytes").substr(0, size));
    expect_error(ExitCode::data, path.string() + ": ends before the 12 bytes of its mark", [&] { AppendFile(path, 2).rewind(file.mark()); });
  }
  fs::remove(path);
  expect_error(ExitCode::data, path.string() + ": is missing", [&] { AppendFile(path, 2).rewind(file.mark()); });
  for (std::int64_t size : {std::int64_t{1}, std::int64_t{-1}, INT64_MIN}) {
    expect_error(ExitCode::data, "lies before the end of its header", [&] { AppendFile(path, 2).rewind({size, hash_of("")}); });
  }
  spill(path, "hhsome bytes");
  expect_error(ExitCode::data, "ends before", [&] { AppendFile(path, 2).rewind({INT64_MAX, hash_of("")}); });
  EXPECT_NO_THROW(AppendFile(directory / "never written").rewind({0, hash_of("")}));
}

TEST(AppendFile, SaysWhichFileCannotBeMade) {
  const TemporaryDirectory directory;
  AppendFile file(directory / "missing/log");
  expect_error(ExitCode::cannot_create, "missing/log: cannot create or open: No such file", [&] { file.append("line"); });
}

TEST(DirectoryLock, NamesItsHolder) {
  const TemporaryDirectory directory;
  ::setenv("SLURM_JOB_ID", "77", 1);
  {
    const DirectoryLock lock(directory.path());
    EXPECT_FALSE(lock.unsupported());
    const auto holder = nlohmann::json::parse(slurp(directory / "LOCK"));
    EXPECT_EQ(holder.at("pid"), ::getpid());
    EXPECT_EQ(holder.at("job_id"), "77");
    EXPECT_EQ(holder.at("boot_id").get<std::string>().size(), 36u);
    const auto expected = directory.path().string() + ": in use by process " + std::to_string(::getpid()) + " on host " +
                          holder.at("host").get<std::string>() + " (job 77)";
    expect_error(ExitCode::locked, expected, [&] { DirectoryLock second(directory.path()); });
    for (const auto* text : {"", "{", "[]", "{\"pid\": \"x\"}"}) {  // the holder is about to write, or wrote nonsense
      spill(directory / "LOCK", text);
      expect_error(ExitCode::locked, "in use by another process", [&] { DirectoryLock second(directory.path()); });
    }
  }
  ::unsetenv("SLURM_JOB_ID");
  spill(directory / "LOCK", std::string(1000, '!'));
  const DirectoryLock third(directory.path());
  EXPECT_EQ(nlohmann::json::parse(slurp(directory / "LOCK")).at("job_id"), "");
}

TEST(DirectoryLock, EndsWithAKilledProcess) {
  const TemporaryDirectory directory;
  int ready[2];
  ASSERT_EQ(::pipe(ready), 0);
  const auto child = ::fork();
  if (child == 0) {
    const DirectoryLock lock(directory.path());
    if (::write(ready[1], "x", 1) == 1) ::pause();
    ::_exit(1);
  }
  char byte = 0;
  ASSERT_EQ(::read(ready[0], &byte, 1), 1);
  expect_error(ExitCode::locked, "in use by process " + std::to_string(child) + " on host", [&] { DirectoryLock second(directory.path()); });
  ::kill(child, SIGKILL);
  ASSERT_EQ(::waitpid(child, nullptr, 0), child);
  EXPECT_NO_THROW(DirectoryLock(directory.path()));
  ::close(ready[0]);
  ::close(ready[1]);
}

TEST(DirectoryLock, GoesOnWhereTheFileSystemHasNoLocks) {
  const TemporaryDirectory directory;
  for (int error : {ENOLCK, EOPNOTSUPP, ENOTSUP, EINVAL, ENOSYS, EBADF}) {
    const ScopedFault no_locks({"fcntl", error});
    EXPECT_TRUE(DirectoryLock(directory.path()).unsupported());
  }
  const ScopedFault broken({"fcntl", EIO});
  expect_error(ExitCode::io, "LOCK: cannot lock", [&] { DirectoryLock lock(directory.path()); });
}

TEST(DirectoryLock, MakesTheDirectoryWhereItCan) {
  const TemporaryDirectory directory;
  EXPECT_FALSE(DirectoryLock(directory / "missing").unsupported());
  EXPECT_TRUE(fs::exists(directory / "missing/LOCK"));
  spill(directory / "file", "");
  expect_error(ExitCode::cannot_create, "file/below", [&] { DirectoryLock lock(directory / "file/below"); });
}

TEST(DirectoryLock, IsOnTheDirectoryThatHasTheNameNow) {
  for (const bool is_replaced : {false, true}) {
    for (const bool was_locked : {false, true}) {
      const TemporaryDirectory directory;
      const auto run = directory / "run", old = directory / "old";
      fs::create_directory(run);
      std::optional<DirectoryLock> forerunner;
      if (was_locked) forerunner.emplace(run);
      before_lock = [&] {
        fs::rename(run, old);
        if (is_replaced) fs::create_directory(run);
      };
      const DirectoryLock lock(run);
      EXPECT_EQ(nlohmann::json::parse(slurp(run / "LOCK")).at("pid"), ::getpid());
      expect_error(ExitCode::locked, "in use by process", [&] { DirectoryLock second(run); });
      forerunner.reset();
      EXPECT_NO_THROW(DirectoryLock{old});
    }
  }
}

TEST(EntriesOf, ToldApartNoneAndUnknown) {
  const TemporaryDirectory directory;
  EXPECT_TRUE(entries_of(directory / "missing").empty());
  EXPECT_TRUE(entries_of(directory.path()).empty());
  spill(directory / "file", "");
  EXPECT_EQ(entries_of(directory.path()), std::vector<fs::path>{directory / "file"});
  expect_error(ExitCode::io, "file: cannot list this directory: Not a directory", [&] { entries_of(directory / "file"); });
  fs::create_symlink(directory / "missing", directory / "link");
  expect_error(ExitCode::io, "link: cannot list this link: No such file", [&] { entries_of(directory / "link"); });
}

TEST(AtomicFile, NeedsNoFileSystemThatFlushesDirectories) {
  const TemporaryDirectory directory;
  for (int error : {EINVAL, ENOSYS, EOPNOTSUPP, EPERM}) {
    const ScopedFault no_flush({"fsync of a directory", error});
    EXPECT_NO_THROW(write_atomically(directory / "a", "text"));
  }
  const ScopedFault broken({"fsync of a directory", EIO});
  expect_error(ExitCode::io, directory.path().string() + ": cannot write", [&] { write_atomically(directory / "a", "text"); });
}

TEST(Paths, WhatCannotBeLookedAtIsNeitherThereNorAbsent) {
  const TemporaryDirectory folder;
  fs::create_symlink(folder / "loop", folder / "loop");
  EXPECT_TRUE(path_exists(folder / "."));
  EXPECT_FALSE(path_exists(folder / "absent" / "file"));
  for (const auto& path : {folder / "loop", folder / std::string(300, 'n')}) {
    expect_error(ExitCode::io, path.string() + ": cannot look for it: ", [&] { path_exists(path); });
    expect_error(ExitCode::io, path.string() + ": cannot look for it: ", [&] { canonical_path(path); });
  }
  EXPECT_EQ(canonical_path("absent/../file"), fs::current_path() / "file");
}

TEST(Paths, ALeadingTildeIsTheHomeFolder) {
  ::setenv("HOME", "/home/me", 1);
  EXPECT_EQ(expanded_path("~"), "/home/me");
  EXPECT_EQ(expanded_path("~/"), "/home/me");
  EXPECT_EQ(expanded_path("~/a/~"), "/home/me/a/~");
  for (const char* path : {"", "a", "./~", "a/~/b"}) EXPECT_EQ(expanded_path(path), path);
  expect_error(ExitCode::usage, "~you/x: only ~ and ~/ mean a home folder", [] { expanded_path("~you/x"); });
  ::unsetenv("HOME");
  expect_error(ExitCode::usage, "~: HOME is not set", [] { expanded_path("~"); });
}

}  // namespace
}  // namespace mnemo
