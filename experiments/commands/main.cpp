#include "experiments/commands/commands.h"

#include "core/config.h"
#include "core/log.h"
#include "core/signals.h"
#include "revision.h"

#include <fmt/format.h>
#include <malloc.h>

#include <clocale>

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

}  // namespace

int main(int argc, char** argv) {
  keep_memory();
  install_signal_handlers();
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
    if (error.get_exit_code() == 0) return app.exit(error);  // --help, --version
    fmt::print(stderr, "{}\nSee: {} --help\n", error.what(), invocation.program);
    return static_cast<int>(ExitCode::usage);
  }
  try {
    return static_cast<int>(chosen());
  } catch (const ConfigError& error) {  // its lines begin with FILE:LINE:COL, for editors
    fmt::print(stderr, "{}\n", error.what());
    return static_cast<int>(ExitCode::config);
  } catch (const Error& error) {
    return report(error.code(), error.what());
  } catch (const std::bad_alloc&) {
    return report(ExitCode::resources, "out of memory");
  } catch (const std::exception& error) {
    return report(ExitCode::bug, fmt::format("this is a bug in mnemo: {}", error.what()));
  }
}
