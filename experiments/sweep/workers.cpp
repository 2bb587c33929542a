#include "experiments/sweep/workers.h"

#include "core/signals.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <nlohmann/json.hpp>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <optional>
#include <sstream>
#include <system_error>

namespace mnemo {

using nlohmann::json;

namespace {

constexpr std::size_t kLastWords = 4096;  // bytes kept
constexpr int kTickMilliseconds = 200;

[[noreturn]] void fail(const char* what) { throw std::system_error(errno, std::generic_category(), what); }

struct Pipe {
  int read_end = -1, write_end = -1;

  static Pipe open() {
    std::array<int, 2> ends{};
    if (::pipe2(ends.data(), O_CLOEXEC) < 0) fail("pipe");
    return {ends[0], ends[1]};
  }
};

/// Everything that can be read now; false at the end of the pipe.
bool drain(int descriptor, std::string& text) {
  std::array<char, 4096> buffer;
  while (true) {
    const auto count = ::read(descriptor, buffer.data(), buffer.size());
    if (count > 0) {
      text.append(buffer.data(), static_cast<std::size_t>(count));
    } else if (count == 0) {
      return false;
    } else if (errno != EINTR) {
      return true;
    }
  }
}

void write_all(int descriptor, const std::string& text) {
  for (std::size_t done = 0; done < text.size();) {
    const auto count = ::write(descriptor, text.data() + done, text.size() - done);
    if (count < 0 && errno != EINTR) return;  // nobody listens
    done += static_cast<std::size_t>(std::max<ssize_t>(count, 0));
  }
}

/// A forked process.
struct Worker {
  std::size_t task, place;
  pid_t process;
  int reports, words;  // read ends of its pipes
  std::string report_text, word_text;
};

std::vector<RunReport> reports_in(const std::string& text) {
  std::vector<RunReport> reports;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    const auto report = json::parse(line, nullptr, /*allow_exceptions=*/false);
    if (report.is_discarded()) break;  // it died while it wrote
    reports.push_back({report["member"], static_cast<ExitCode>(report["code"].get<int>()), report["message"]});
  }
  return reports;
}

std::string death_of(int status) {
  if (WIFSIGNALED(status)) {
    const int number = WTERMSIG(status);
    return fmt::format("killed by signal {} ({}){}", number, ::strsignal(number), number == SIGKILL ? ", perhaps for want of memory" : "");
  }
  return WEXITSTATUS(status) == 0 ? std::string() : fmt::format("ended with code {}", WEXITSTATUS(status));
}

/// What the worker does after fork(): never returns.
[[noreturn]] void be_worker(const PoolTasks& tasks, std::size_t task, std::size_t place, pid_t parent, const Pipe& reports, const Pipe& words) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (::getppid() != parent) ::_exit(1);  // it died already
  stop_on_signals(/*over_bar=*/false, /*silently=*/true);
  ::dup2(words.write_end, STDOUT_FILENO);
  ::dup2(words.write_end, STDERR_FILENO);
  int code = 0;
  try {
    for (const auto& report : tasks.work(task, place)) {
      const json line{{"member", report.member}, {"code", static_cast<int>(report.code)}, {"message", report.message}};
      write_all(reports.write_end, line.dump(-1, ' ', false, json::error_handler_t::replace) + "\n");
    }
  } catch (const std::exception& error) {
    write_all(STDERR_FILENO, fmt::format("this is a bug in mnemo: {}\n", error.what()));
    code = static_cast<int>(ExitCode::bug);
  }
  std::fflush(nullptr);
  ::_exit(code);  // what the parent has made is the parent's to destroy
}

Worker start(const PoolTasks& tasks, std::size_t task, std::size_t place) {
  const auto reports = Pipe::open(), words = Pipe::open();
  std::fflush(nullptr);
  const auto parent = ::getpid();
  const auto process = ::fork();
  if (process < 0) fail("fork");
  if (process == 0) be_worker(tasks, task, place, parent, reports, words);
  ::close(reports.write_end);
  ::close(words.write_end);
  for (const int end : {reports.read_end, words.read_end}) ::fcntl(end, F_SETFL, O_NONBLOCK);
  return {task, place, process, reports.read_end, words.read_end, {}, {}};
}

/// Reads what a worker says; whether it has ended, and how.
std::optional<WorkerEnd> look_after(Worker& worker) {
  drain(worker.reports, worker.report_text);
  drain(worker.words, worker.word_text);
  if (worker.word_text.size() > kLastWords) worker.word_text.erase(0, worker.word_text.size() - kLastWords);
  int status = 0;
  if (::waitpid(worker.process, &status, WNOHANG) != worker.process) return {};
  drain(worker.reports, worker.report_text);
  drain(worker.words, worker.word_text);
  ::close(worker.reports);
  ::close(worker.words);
  return WorkerEnd{reports_in(worker.report_text), death_of(status), WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL, worker.word_text};
}

std::size_t free_place(const std::vector<Worker>& workers) {
  for (std::size_t place = 0;; ++place) {
    if (std::none_of(workers.begin(), workers.end(), [&](const Worker& worker) { return worker.place == place; })) return place;
  }
}

/// Waits until a worker says something or ends, or for a tick.
void wait_for(const std::vector<Worker>& workers) {
  std::vector<pollfd> pipes;
  for (const auto& worker : workers) {
    pipes.push_back({worker.reports, POLLIN, 0});
    pipes.push_back({worker.words, POLLIN, 0});
  }
  ::poll(pipes.data(), pipes.size(), kTickMilliseconds);
}

}  // namespace

void run_workers(const PoolTasks& tasks, std::size_t jobs) {
  std::vector<Worker> workers;
  bool stopping = false;
  for (std::size_t next = 0; next < tasks.count || !workers.empty();) {
    if (!stopping && tasks.stop && tasks.stop()) {
      stopping = true;
      next = tasks.count;
      for (const auto& worker : workers) ::kill(worker.process, SIGTERM);
    }
    for (; next < tasks.count && workers.size() < jobs; ++next) {
      if (tasks.before) tasks.before(next);
      workers.push_back(start(tasks, next, free_place(workers)));
      if (tasks.started) tasks.started(next);
    }
    if (!workers.empty()) wait_for(workers);
    std::erase_if(workers, [&](Worker& worker) {
      const auto end = look_after(worker);
      if (end) tasks.ended(worker.task, *end);
      return end.has_value();
    });
    if (tasks.tick) tasks.tick();
  }
}

}  // namespace mnemo
