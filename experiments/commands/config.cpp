#include "experiments/commands/commands.h"
#include "experiments/config/config.h"
#include "experiments/directory/run_json.h"

#include <fmt/format.h>

namespace mnemo {

void add_config(CLI::App& app, Command& chosen) {
  auto* command = app.add_subcommand("config", "Check a configuration and print it resolved, or list every setting");
  command->footer(
      "Examples:\n"
      "  mnemo config configs/switch.yaml train.lr=3e-4\n"
      "  mnemo config configs/switch.yaml --json          as run.json has it: with the steps of events and the model's facts\n"
      "  mnemo config --fields                            every key, its default, its rule, what it means");
  auto path = std::make_shared<std::string>();
  auto overrides = std::make_shared<std::vector<std::string>>();
  auto fields = std::make_shared<bool>(false);
  command->add_option("config", *path, "YAML file")->transform(home_expanded());
  command->add_option("overrides", *overrides, "a.b=value");
  auto json = std::make_shared<bool>(false);
  auto* fields_flag = command->add_flag("--fields", *fields, "list every setting");
  command->add_flag("--json", *json, "print what a run keeps as run.json")->excludes(fields_flag);
  command->callback([=, &chosen] {
    if (path->empty() && !*fields) throw CLI::RequiredError("config");
    chosen = [=] {
      if (*fields) {
        RunConfig example;
        for (const auto& field : describe(example)) {
          const auto type = field.type == "map" ? std::string() : fmt::format("{}{}{}", field.type, field.rule.empty() ? "" : ", ", field.rule);
          fmt::print("{:<44} {:<14} {}{}\n", field.path, field.default_text, field.help, type.empty() ? "" : fmt::format(" [{}]", type));
        }
      } else {
        const auto config = load_config(*path, *overrides).config;
        fmt::print("{}", *json ? run_json(config) : to_yaml(config));
      }
      return ExitCode::done;
    };
  });
}

}  // namespace mnemo
