#include "core/output.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>

namespace mnemo {

namespace {

/// The write function of a stream: always reports success.
ssize_t write_or_lose(void*, const char* bytes, std::size_t size) {
  for (std::size_t done = 0; done < size;) {
    const auto written = ::write(STDOUT_FILENO, bytes + done, size - done);
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) break;
    done += static_cast<std::size_t>(written);
  }
  return static_cast<ssize_t>(size);
}

}  // namespace

void occupy_standard_streams() {
  for (const int descriptor : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) {
    if (::fcntl(descriptor, F_GETFD) >= 0) continue;
    ::open("/dev/null", descriptor == STDERR_FILENO ? O_WRONLY : O_RDONLY);  // gets the lowest free number: this one
  }
}

void let_output_be_lost() {
  std::fflush(stdout);
  auto* stream = fopencookie(nullptr, "w", {.read = nullptr, .write = write_or_lose, .seek = nullptr, .close = nullptr});
  if (stream == nullptr) return;
  if (isatty(STDOUT_FILENO) != 0) std::setvbuf(stream, nullptr, _IOLBF, BUFSIZ);
  stdout = stream;
}

void print_to_stderr(std::string_view text) {
  std::fwrite(text.data(), 1, text.size(), stderr);
  std::fflush(stderr);
}

}  // namespace mnemo
