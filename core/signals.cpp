#include "core/signals.h"

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdint>
#include <ctime>
#include <string_view>

namespace mnemo {

namespace {

constexpr int kStopSignals[] = {SIGINT, SIGTERM, SIGUSR1, SIGUSR2, SIGHUP, SIGXCPU};
constexpr std::int64_t kSecond = 1'000'000'000;

// both begin by erasing a progress bar
constexpr std::string_view kEraseLine = "\r\x1b[K";
constexpr std::string_view kStopping =
    "\r\x1b[Kstopping: this step is finished and saved. Ctrl-C more than a second from now ends at once, without saving\n";
constexpr std::string_view kEnded =
    "\r\x1b[Kended at once: what came after the last checkpoint is lost, and status.json may still say running. The same command goes on from "
    "there\n";

std::atomic<std::int64_t> first_at = 0;  // CLOCK_MONOTONIC, ns; 0: no signal yet
static_assert(std::atomic<std::int64_t>::is_always_lock_free);
std::atomic<int> first_signal = 0;
std::size_t skipped = 0;  // leading bytes of a message that are left out: no bar to erase
bool muted = false;

void say(std::string_view message) {
  if (muted) return;
  message.remove_prefix(skipped);
  [[maybe_unused]] const auto written = write(STDERR_FILENO, message.data(), message.size());
}

/// Calls only async-signal-safe functions. May run in several threads at once.
void on_signal(int number) {
  const int error = errno;
  timespec time{};
  clock_gettime(CLOCK_MONOTONIC, &time);
  const std::int64_t now = time.tv_sec * kSecond + time.tv_nsec;
  std::int64_t first = 0;
  if (first_at.compare_exchange_strong(first, now)) {
    first_signal = number;
    say(kStopping);
  } else if (number == SIGINT && now - first > kSecond) {
    say(kEnded);
    _exit(128 + number);
  }
  errno = error;
}

/// `ulimit -t` sets the soft and the hard limit of CPU time to one value, so that the kernel kills without sending XCPU. Lowers the soft one to leave
/// a tenth of the time to save.
void part_limits_of_cpu_time() {
  rlimit limit{};
  if (getrlimit(RLIMIT_CPU, &limit) != 0 || limit.rlim_max == RLIM_INFINITY || limit.rlim_max < 2) return;
  limit.rlim_cur = std::min(limit.rlim_cur, limit.rlim_max - std::clamp<rlim_t>(limit.rlim_max / 10, 1, 60));
  setrlimit(RLIMIT_CPU, &limit);
}

}  // namespace

void stop_on_signals(bool over_bar, bool silently) {
  muted = silently;
  skipped = over_bar ? 0 : kEraseLine.size();
  struct sigaction action {};
  action.sa_handler = on_signal;
  action.sa_flags = SA_RESTART;
  sigemptyset(&action.sa_mask);
  for (const int number : kStopSignals) sigaddset(&action.sa_mask, number);
  for (const int number : kStopSignals) {
    struct sigaction inherited {};
    sigaction(number, nullptr, &inherited);
    if (inherited.sa_handler != SIG_IGN) sigaction(number, &action, nullptr);
  }
  part_limits_of_cpu_time();
}

bool stop_signalled() { return first_at != 0; }

int stop_signal() { return first_signal; }

}  // namespace mnemo
