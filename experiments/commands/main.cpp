#include "experiments/commands/commands.h"

#include "core/config.h"
#include "core/device.h"
#include "core/files.h"
#include "core/log.h"
#include "core/output.h"
#include "core/shell.h"
#include "revision.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <malloc.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <sstream>
#include <system_error>

namespace {

using namespace mnemo;

/// The program as it can be called from any folder.
std::string program_path(const char* name) {
  std::error_code unknown;
  const auto path = fs::absolute(name, unknown).lexically_normal();
  return std::string_view(name).find('/') == std::string_view::npos || unknown ? name : path.string();
}

/// Keeps glibc from returning large temporaries to the kernel after each operation only to fault them in again.
void keep_memory() {
  mallopt(M_MMAP_THRESHOLD, 1 << 30);
  mallopt(M_TRIM_THRESHOLD, 1 << 30);
}

int report(ExitCode code, const std::string& message) {
  Log().line(LogLevel::error, message);
  return static_cast<int>(code);
}

/// Standard output did not take everything. A reader that closes a pipe has seen enough and wants no message.
int report_lost_output(int error) {
  if (error == EPIPE) return 128 + SIGPIPE;
  return report(ExitCode::io, fmt::format("standard output: cannot write: {}", std::generic_category().message(error)));
}

/// Flushes the output. Returns `code`, or why output was lost.
int after_output(int code) {
  errno = 0;
  const bool lost = std::fflush(stdout) != 0 || std::ferror(stdout) != 0;
  return lost && code == 0 ? report_lost_output(errno != 0 ? errno : EIO) : code;
}

/// What is wrong with a command line; names a first word that is no command.
std::string problem_of(const CLI::App& app, const std::string& first_word, const CLI::ParseError& error) {
  std::vector<std::string> names;
  bool is_command = false;
  for (const auto* command : app.get_subcommands([](const CLI::App*) { return true; })) {
    is_command = is_command || command->get_name() == first_word;
    if (!command->get_group().empty()) names.push_back(command->get_name());  // not what programs call
  }
  if (first_word.empty() || first_word[0] == '-' || is_command) return error.what();
  return fmt::format("no command '{}'; there are {}", first_word, fmt::join(names, ", "));
}

}  // namespace

int main(int argc, char** argv) {
  occupy_standard_streams();
  keep_memory();
  std::signal(SIGXFSZ, SIG_IGN);  // a file-size limit is then an error of write()
  Invocation invocation{program_path(argv[0]), {}};
  for (int i = 0; i < argc; ++i) invocation.command += (i > 0 ? " " : "") + quoted(argv[i]);
  ::setenv("MNEMO_PROGRAM", invocation.program.c_str(), 1);  // for the commands that scripts print

  CLI::App app("mnemo: how do sequence models memorise? Trains them on Zipf-sampled binary sequences, through switches.", "mnemo");
  app.set_version_flag("--version", fmt::format("mnemo {} ({})", MNEMO_VERSION, MNEMO_REVISION));
  app.require_subcommand(1);
  app.footer("Examples:\n  mnemo train configs/quickstart.yaml\n  mnemo plot cache/quickstart/quickstart\n  mnemo COMMAND --help");
  Command chosen;
  add_train(app, invocation, chosen);
  add_sweep(app, invocation, chosen);
  add_resume(app, invocation, chosen);
  add_work(app, invocation, chosen);
  add_status(app, chosen);
  add_best(app, invocation, chosen);
  add_logs(app, chosen);
  add_evaluate(app, chosen);
  add_export(app, invocation, chosen);
  add_config(app, chosen);
  add_theory(app, chosen);
  add_doctor(app, chosen);
  add_bench(app, chosen);
  add_scripts(app, chosen);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() != 0) {
      print_to_stderr(fmt::format("{}\nSee: {} --help\n", problem_of(app, argc > 1 ? argv[1] : "", error), invocation.program));
      return static_cast<int>(ExitCode::usage);
    }
    std::ostringstream text;
    app.exit(error, text);  // --help, --version
    chosen = [text = text.str()] {
      fmt::print("{}", text);
      return ExitCode::done;
    };
  }
  try {
    return after_output(static_cast<int>(chosen()));
  } catch (const ConfigError& error) {  // its lines begin with FILE:LINE:COL, for editors
    print_to_stderr(fmt::format("{}\n", error.what()));
    return static_cast<int>(ExitCode::config);
  } catch (const Error& error) {
    return report(error.code(), error.what());
  } catch (const fs::filesystem_error& error) {
    return report(ExitCode::io, fmt::format("{}: {}", error.path1().string(), error.code().message()));
  } catch (const std::bad_alloc&) {
    return report(ExitCode::resources, "out of memory");
  } catch (const std::exception& error) {
    const auto* failure = dynamic_cast<const std::system_error*>(&error);
    if (failure != nullptr && std::ferror(stdout) != 0) return report_lost_output(failure->code().value());
    if (is_device_error(error)) return report(ExitCode::resources, error.what());
    return report(ExitCode::bug, fmt::format("this is a bug in mnemo: {}", error.what()));
  }
}
