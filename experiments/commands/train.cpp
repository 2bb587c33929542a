#include "core/log.h"
#include "core/output.h"
#include "core/signals.h"
#include "core/threads.h"
#include "experiments/commands/commands.h"
#include "experiments/run/session.h"

#include <csignal>

namespace mnemo {

void add_train(CLI::App& app, const Invocation& invocation, Command& chosen) {
  auto* command = app.add_subcommand("train", "Run a configuration, or resume it where it stopped");
  command->footer(
      "Examples:\n"
      "  mnemo train configs/quickstart.yaml\n"
      "  mnemo train configs/switch.yaml train.lr=3e-4 model.heads=2      names the run by its overrides\n"
      "  mnemo train configs/switch.yaml run=switch train.steps=40000 events.0.at=10000 events.1.at=10000\n"
      "                                                                   goes on with a run that is done; what was at 50% stays where it was\n"
      "  mnemo train configs/paper/zipf_1e5.yaml --dry-run                says how much disk it takes\n"
      "Ctrl-C (also TERM, HUP, USR1, USR2, XCPU) stops after the current step and saves; the same command goes on, to the same bytes.\n"
      "Only another Ctrl-C, more than a second later, ends without saving.");
  auto request = std::make_shared<TrainRequest>();
  auto progress = std::make_shared<std::string>("auto");
  auto cache = std::make_shared<std::string>();
  command->add_option("config", request->config_path, "YAML file")->required()->transform(home_expanded());
  command->add_option("overrides", request->overrides, "a.b=value, YAML values; lists by index: events.1.at=500. Files that they name are of the working "
                      "directory, those that the YAML file names of its folder");
  command->add_option("--cache", *cache, "folder of all results (default: $MNEMO_CACHE, or ./cache)")->transform(home_expanded());
  command->add_flag("--dry-run", request->dry_run, "say what would be done, write nothing");
  command->add_flag("--restart", request->restart, "move an existing run aside (to <group>/.old) and start anew");
  add_number(command, "--max-hours", request->options.max_hours, in_range(0, 1e6, true, /*include_low=*/false), "stop, resumable, after this long")->default_str("");
  command->add_option("--progress", *progress, "auto, bar, plain or none")->check(CLI::IsMember({"auto", "bar", "plain", "none"}));
  command->callback([=, &chosen] {
    chosen = [=] {
      if (!cache->empty()) request->cache = *cache;
      request->options.progress = progress_style(*progress);
      request->options.program = invocation.program;
      request->options.command = invocation.command;
      if (request->dry_run) return train(*request);
      stop_on_signals(terminal() || request->options.progress == ProgressStyle::bar);
      std::signal(SIGPIPE, SIG_IGN);
      let_output_be_lost();  // a run goes on without its terminal
      request->options.stop = stop_signalled;
      if (!request->dry_run) wait_without_spinning(threads_of(*request));
      return train(*request);
    };
  });
}

}  // namespace mnemo
