#include "experiments/commands/commands.h"

#include <fmt/format.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <unistd.h>

namespace mnemo {

namespace fs = std::filesystem;

namespace {

struct Script {
  const char* name;
  const char* file;
  const char* help;
};
constexpr Script kScripts[] = {
    {"plot", "plot_run.py", "Draw a run: loss and accuracy by rank bin; or a sweep: against its settings"},
    {"show", "mnemo_io.py", "Summary of one run; --csv, --npz"},
    {"compare", "compare.py", "Lay runs side by side by rank bin and presentations; --against, --figure"},
    {"report", "report.py", "Write one HTML page over runs: table, curves, learning rates, provenance; opens offline"},
    {"reproduce", "reproduce.py", "Make a figure from nothing, and say where it differs from what is expected"},
    {"import", "import_record.py", "Turn an old notebook record into a run directory"},
};

/// $MNEMO_PYTHON, the project's own environment if there is one, or python3.
std::string python() {
  const char* named = std::getenv("MNEMO_PYTHON");
  if (named != nullptr && *named != '\0') return expanded_path(named).string();
  const auto own = fs::path(MNEMO_SOURCE_DIR) / ".venv/bin/python";
  return ::access(own.c_str(), X_OK) == 0 ? own.string() : "python3";  // this user may not be allowed to follow a link there
}

}  // namespace

ExitCode run_script(const std::string& file, const std::vector<std::string>& arguments) {
  const auto path = fs::path(project_folder("scripts")) / file;
  if (::access(path.c_str(), R_OK) != 0) {
    throw Error(ExitCode::cannot_create, fmt::format("{}: cannot be read: {}; reinstall mnemo", path.string(), std::strerror(errno)));
  }
  const auto interpreter = python();
  std::vector<std::string> words{interpreter, path.string()};
  words.insert(words.end(), arguments.begin(), arguments.end());
  std::vector<char*> argv;
  for (auto& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  std::fflush(nullptr);  // what was said so far
  execvp(argv[0], argv.data());
  throw Error(ExitCode::cannot_create,
              fmt::format("{}: cannot be started: {}. MNEMO_PYTHON names another interpreter", interpreter, std::strerror(errno)));
}

std::string project_folder(const std::string& name) {
  std::error_code none;
  const auto installed = fs::read_symlink("/proc/self/exe", none).parent_path().parent_path() / "share/mnemo" / name;
  return fs::exists(installed, none) ? installed.string() : (fs::path(MNEMO_SOURCE_DIR) / name).string();
}

void add_scripts(CLI::App& app, Command& chosen) {
  for (const auto& script : kScripts) {
    auto* command = app.add_subcommand(script.name, script.help);
    command->prefix_command();
    command->set_help_flag();  // the script has its own
    command->callback([command, &script, &chosen] { chosen = [command, &script] { return run_script(script.file, command->remaining()); }; });
  }
}

}  // namespace mnemo
