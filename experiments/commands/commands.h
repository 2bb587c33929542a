#pragma once

#include "core/config.h"
#include "core/error.h"
#include "core/files.h"

#include <CLI/CLI.hpp>
#include <fmt/format.h>

#include <functional>
#include <string>
#include <vector>

namespace mnemo {

/// What main() knows about how it was called.
struct Invocation {
  std::string program;  ///< argv[0], absolute unless it was looked up in PATH
  std::string command;  ///< the whole command line, quoted where a shell needs it
};

/// The action of the subcommand that was chosen.
using Command = std::function<ExitCode()>;

/// An option that takes a number, by the grammar and the rules of configurations.
template <class T>
CLI::Option* add_number(CLI::App* command, const std::string& name, T& number, const Rule& rule, const std::string& help = {}) {
  const auto read = [name, &number, rule](const std::string& text) {
    if (const auto problem = read_number(text, number, {rule}); !problem.empty()) throw CLI::ValidationError(name, problem);
  };
  return command->add_option_function<std::string>(name, read, help)->type_name("NUMBER")->default_str(fmt::format("{}", number));
}

/// For an option that is a path: expands a leading ~.
inline CLI::Validator home_expanded() {
  return CLI::Validator(
      [](std::string& text) {
        try {
          text = expanded_path(text).string();
          return std::string();
        } catch (const Error& error) {
          return std::string(error.what());
        }
      },
      "");
}

// Each adds its subcommand, with help and examples, and sets `chosen` when that one is called.
void add_train(CLI::App& app, const Invocation& invocation, Command& chosen);
void add_sweep(CLI::App& app, const Invocation& invocation, Command& chosen);
void add_resume(CLI::App& app, const Invocation& invocation, Command& chosen);
void add_work(CLI::App& app, const Invocation& invocation, Command& chosen);
void add_status(CLI::App& app, Command& chosen);
void add_best(CLI::App& app, const Invocation& invocation, Command& chosen);
void add_logs(CLI::App& app, Command& chosen);
void add_evaluate(CLI::App& app, Command& chosen);
void add_export(CLI::App& app, const Invocation& invocation, Command& chosen);
void add_config(CLI::App& app, Command& chosen);
void add_theory(CLI::App& app, Command& chosen);
void add_doctor(CLI::App& app, Command& chosen);
void add_bench(CLI::App& app, Command& chosen);
/// plot, and the other subcommands that run a Python script.
void add_scripts(CLI::App& app, Command& chosen);

/// Becomes scripts/<file> with these arguments; returns only by throwing Error{cannot_create}.
ExitCode run_script(const std::string& file, const std::vector<std::string>& arguments);

/// Folder `name` (scripts, configs) of the project: beside an installed binary, or in the source tree of a build.
std::string project_folder(const std::string& name);

}  // namespace mnemo
