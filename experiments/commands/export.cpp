#include "core/error.h"
#include "core/files.h"
#include "core/log.h"
#include "core/shell.h"
#include "experiments/commands/commands.h"
#include "experiments/record/notebook_pickle.h"
#include "experiments/directory/run_reader.h"

#include <fmt/format.h>

namespace mnemo {

namespace {

struct ExportRequest {
  std::string program;
  std::vector<std::string> runs;
  std::string tree, format, rows, sequences_name = "_all_sequences", check, tensorboard;
  std::int64_t epoch_steps = 0;
  bool flat = false, no_sequences = false, iter_files = false;
};

RunReader finished_run(const ExportRequest& request, const fs::path& path) {
  const RunReader run(path);
  const auto status = run.status();
  if (status.state == "diverged") {
    refuse(path, fmt::format("diverged at step {} and is not resumed; it has no record", status.step));
  }
  if (status.state != "done" && status.state != "at_chance") {
    refuse(path, fmt::format("is not over (its state is {}). To go on with it:\n  {}", status.state.empty() ? "unknown" : status.state,
                             command_line(request.program, "train", run.file("config.yaml"))));
  }
  return run;
}

/// The run's own settings, except those that the command sets.
NotebookSettings settings_of(const ExportRequest& request, RunConfig& config) {
  if (!request.rows.empty()) config.output.pickle_rows = request.rows;
  if (request.epoch_steps > 0) config.output.epoch_steps = request.epoch_steps;
  if (const auto problems = notebook_problems(config); !problems.empty()) {
    const auto& [key, what] = problems.front();
    throw Error(ExitCode::config, fmt::format("{}: {}: {}. --epoch-steps and --rows choose others", *config.run, key, what));
  }
  auto settings = notebook_settings(config);
  if (!request.format.empty()) settings.format = request.format;
  if (settings.format == "none") settings.format = "torch";
  return settings;
}

/// A name for the run in a group of the tree: the notebooks' own, with _1, _2, ... if another run has it. A hidden file says which run a name belongs
/// to, so that exporting a run again replaces its files. It lies at the top of the tree, since notebooks list and glob the folders of groups.
std::string name_in_tree(const fs::path& group, const std::string& name, const fs::path& run) {
  const auto source = canonical_path(run).string();
  const auto owners = group.parent_path() / ".sources" / group.filename();
  for (int k = 0;; ++k) {
    auto candidate = k == 0 ? name : fmt::format("{}_{}", name, k);
    const auto owner = owners / candidate;
    if (path_exists(owner) && read_file(owner) != source) continue;
    const auto taken = [&](const char* suffix) { return path_exists(group / (candidate + suffix)); };
    if (!path_exists(owner) && (taken("") || taken(".pkl") || taken(".pt"))) continue;
    make_directories(group);
    make_directories(owners);
    write_atomically(owner, source);
    return candidate;
  }
}

/// Gives a file a second name: a hard link, or a copy if the file system has no links. Atomically replaces what had the name.
void name_again(const fs::path& file, const fs::path& name) {
  const fs::path temporary = name.string() + ".tmp";
  std::error_code problem;
  fs::remove(temporary, problem);
  fs::create_hard_link(file, temporary, problem);
  if (problem) fs::copy_file(file, temporary, problem);
  if (!problem) fs::rename(temporary, name, problem);
  if (!problem) return;
  std::error_code ignored;
  fs::remove(temporary, ignored);
  throw Error(ExitCode::io, fmt::format("{}: {}", name.string(), problem.message()));
}

/// dam_<run>.pt; in a tree it lies in the group itself.
fs::path dam_record(const ExportRequest& request, const RunConfig& config, const fs::path& run) {
  const auto name = fmt::format("dam_{}", *config.run);
  if (request.tree.empty()) return run / (name + ".pt");
  const auto group = fs::path(request.tree) / *config.group;
  return group / (name_in_tree(group, name, run) + ".pt");
}

/// Writes the pickles of a run. The record of a DAM is made later, by a script: adds the run and the record's path to `dams`. Its sequences are
/// written here if there are epochs.
void export_run(const ExportRequest& request, const fs::path& run, std::vector<std::string>& dams) {
  const auto finished = finished_run(request, run);
  auto config = finished.config();
  if (std::holds_alternative<DamConfig>(config.model)) {
    dams.push_back(run.string());
    dams.push_back(dam_record(request, config, run).string());
    const bool has_epochs = request.epoch_steps > 0 || notebook_problems(config).empty();
    if (!request.tree.empty() || request.no_sequences || !has_epochs) return;
  }
  const auto settings = settings_of(request, config);
  const RunReader reader(run, config);
  const bool has_record = has_notebook_record(config.model), in_tree = !request.tree.empty();
  // In a tree, notebooks open whichever file of a folder they find first, so that both names mean one file, the record.
  const auto write = [&](const fs::path& stem, const std::string& sequences_name) {
    const auto put = [&](const std::string& suffix, auto&& writer) {
      const fs::path target = stem.string() + suffix + ".pkl";
      writer(target);
      fmt::print("{}\n", target.string());
      return target;
    };
    const bool with_sequences = !sequences_name.empty(), one_file = has_record && with_sequences && in_tree;
    fs::path record;
    if (has_record) record = put("", [&](const fs::path& to) { write_notebook_record(reader, settings, to, one_file); });
    if (with_sequences) {
      put(sequences_name, [&](const fs::path& to) { one_file ? name_again(record, to) : write_notebook_sequences(reader, settings, to); });
    }
    if (!request.iter_files || !has_record) return;
    const auto snapshots = write_notebook_snapshots(reader, settings, stem);
    for (const auto& path : snapshots) fmt::print("{}\n", path.string());
    if (snapshots.empty())
      Log().warning("{}: took no snapshots with `every` at the start of an epoch: --iter-files has nothing to write", run.string());
  };
  if (!in_tree) {
    const DirectoryLock nobody_else(run);
    return write(run / *config.run, request.no_sequences ? "" : "_sequences");
  }
  const auto group = fs::path(request.tree) / *config.group;
  const auto name = name_in_tree(group, notebook_run_name(config), run);
  const auto folder = request.flat ? group : group / name;
  make_directories(folder);
  write(folder / name, request.no_sequences || request.flat ? "" : request.sequences_name);
}

ExitCode export_runs(const ExportRequest& request) {
  if (!request.check.empty()) return run_script("export_check.py", {request.check});
  if (!request.tensorboard.empty()) {
    std::vector<std::string> words{request.tensorboard};
    words.insert(words.end(), request.runs.begin(), request.runs.end());
    return run_script("export_tensorboard.py", words);
  }
  std::vector<std::string> dams;
  for (const auto& run : request.runs) export_run(request, run, dams);
  return dams.empty() ? ExitCode::done : run_script("export_dam.py", dams);
}

}  // namespace

void add_export(CLI::App& app, const Invocation& invocation, Command& chosen) {
  auto* command = app.add_subcommand("export", "Write the records that notebooks read, or the logs that TensorBoard does");
  command->footer(
      "Examples:\n"
      "  mnemo export cache/quickstart/quickstart                     <run>.pkl and <run>_sequences.pkl in the run directory\n"
      "  mnemo export cache/switch/* --tree out                       out/<group>/<run>/<run>.pkl, and as <run>_all_sequences.pkl\n"
      "  mnemo export RUN --tree out --flat --rows all_ranks          out/<group>/<run>.pkl alone\n"
      "  mnemo export cache/dam_switch/dam_switch --tree out          out/<group>/dam_<run>.pt, a torch archive (needs torch in Python;\n"
      "                                                               torch.load(PATH, weights_only=False) loads it)\n"
      "  mnemo export --tensorboard logs cache/sweep_lr               logs/<run>/ for tensorboard --logdir logs, of runs in flight too\n"
      "  mnemo export --check out                                     what would fail in a notebook");
  auto request = std::make_shared<ExportRequest>();
  request->program = invocation.program;
  auto* runs = command->add_option("runs", request->runs, "run directories of finished runs")->transform(home_expanded());
  auto* tree =
      command->add_option("--tree", request->tree, "folder for <group>/<run>/, named as globbing notebooks expect")->transform(home_expanded());
  auto* flat = command->add_flag("--flat", request->flat, "in a tree: <group>/<run>.pkl, without sequences")->needs(tree);
  command->add_option("--sequences-name", request->sequences_name, "in a tree: the record's other name, <run><this>.pkl")
      ->needs(tree)
      ->capture_default_str();
  auto* without = command->add_flag("--no-sequences", request->no_sequences, "the record alone");
  auto* snapshots =
      command->add_flag("--iter-files", request->iter_files, "also <run>_model_iter_<epoch>.pkl, the weights of `snapshot` events with `every`")
          ->excludes(flat);
  auto* format = command->add_option("--format", request->format, "torch (default) or numpy, which loads without torch")
                     ->check(CLI::IsMember({"torch", "numpy"}));
  auto* rows = command->add_option("--rows", request->rows, "output.pickle_rows")
                   ->check(CLI::IsMember({"current", "all_phases", "all_validation", "all_ranks"}));
  auto* epochs = add_number(command, "--epoch-steps", request->epoch_steps, in_range(1, 1e12), "output.epoch_steps")->default_str("");
  auto* check =
      command->add_option("--check", request->check, "check a tree against what notebooks read")->transform(home_expanded())->excludes(runs);
  command->add_option("--tensorboard", request->tensorboard, "instead: event files of runs, or of folders of runs, in this folder")
      ->transform(home_expanded())
      ->excludes(tree, check, without, snapshots, format, rows, epochs);
  command->callback([=, &chosen] {
    if (runs->empty() && check->empty()) throw CLI::RequiredError("runs");
    chosen = [=] { return export_runs(*request); };
  });
}

}  // namespace mnemo
