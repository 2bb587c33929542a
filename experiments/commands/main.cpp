#include "experiments/commands/commands.h"

#include "core/config.h"
#include "core/log.h"
#include "core/output.h"
#include "revision.h"

#include <fmt/format.h>
#include <malloc.h>

#include <cerrno>
#include <clocale>
#include <csignal>
#include <cstdio>
#include <sstream>
#include <system_error>

namespace {

using namespace mnemo;

std::string quoted(const std::string& argument) {
  if (!argument.empty() && argument.find_first_of(" \t\n\"'\\$&;|<>(){}[]*?!#~`") == std::string::npos) return argument;
  std::string text = "'";
  for (const char c : argument) text += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return text + "'";
}

/// glibc would give large temporaries back to the kernel after each operation and fault them in again.
void keep_memory() {
  mallopt(M_MMAP_THRESHOLD, 1 << 30);
  mallopt(M_TRIM_THRESHOLD, 1 << 30);
}

int report(ExitCode code, const std::string& message) {
  log_line(LogLevel::error, message);
  return static_cast<int>(code);
}

/// What standard output did not take. Whoever closes a pipe has seen enough, and wants to hear no more.
int report_lost_output(int error) {
  if (error == EPIPE) return 128 + SIGPIPE;
  return report(ExitCode::io, fmt::format("standard output: cannot write: {}", std::generic_category().message(error)));
}

/// `code`, once all of the output is written.
int after_output(int code) {
  errno = 0;
  const bool lost = std::fflush(stdout) != 0 || std::ferror(stdout) != 0;
  return lost && code == 0 ? report_lost_output(errno != 0 ? errno : EIO) : code;
}

}  // namespace

int main(int argc, char** argv) {
  occupy_standard_streams();
  keep_memory();
  std::signal(SIGXFSZ, SIG_IGN);  // a file-size limit is then an error of write()
  Invocation invocation{argv[0], {}};
  for (int i = 0; i < argc; ++i) invocation.command += (i > 0 ? " " : "") + quoted(argv[i]);

  CLI::App app("mnemo: how do sequence models memorise? Trains them on Zipf-sampled binary sequences, through switches.", "mnemo");
  app.set_version_flag("--version", fmt::format("mnemo {} ({})", MNEMO_VERSION, MNEMO_REVISION));
  app.require_subcommand(1);
  app.footer("Examples:\n  mnemo train configs/quickstart.yaml\n  mnemo plot cache/quickstart/quickstart\n  mnemo COMMAND --help");
  Command chosen;
  add_train(app, invocation, chosen);
  add_evaluate(app, invocation, chosen);
  add_export(app, chosen);
  add_config(app, chosen);
  add_theory(app, chosen);
  add_doctor(app, chosen);
  add_bench(app, chosen);
  add_scripts(app, chosen);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() != 0) {
      print_to_stderr(fmt::format("{}\nSee: {} --help\n", error.what(), invocation.program));
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
  } catch (const std::bad_alloc&) {
    return report(ExitCode::resources, "out of memory");
  } catch (const std::exception& error) {
    const auto* failure = dynamic_cast<const std::system_error*>(&error);
    if (failure != nullptr && std::ferror(stdout) != 0) return report_lost_output(failure->code().value());
    return report(ExitCode::bug, fmt::format("this is a bug in mnemo: {}", error.what()));
  }
}
