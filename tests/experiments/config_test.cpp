#include "experiments/config/config.h"

#include "core/files.h"
#include "core/npy.h"
#include "core/threads.h"
#include "support.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <map>
#include <set>
#include <sstream>

namespace mnemo {
namespace {

using test::slurp;
using test::spill;
using test::TemporaryDirectory;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using Lines = std::vector<std::string>;

const fs::path kSource = MNEMO_SOURCE_DIR;

/// `text` as the only file of a folder, loaded.
LoadedConfig load_text(std::string_view text, const Lines& overrides = {}) {
  const TemporaryDirectory folder;
  spill(folder / "f.yaml", text);
  return load_config(folder / "f.yaml", overrides);
}

RunConfig config_of(std::string_view text, const Lines& overrides = {}) { return load_text(text, overrides).config; }

std::string run_of(const Lines& overrides) { return *config_of("name: base", overrides).run; }

/// What load_config says about a file, with file names as seen from its folder; "" when it has nothing to say.
std::string complaint(const fs::path& path, const Lines& overrides = {}) {
  try {
    load_config(path, overrides);
    return {};
  } catch (const ConfigError& error) {
    std::string text = error.what();
    for (const auto& folder : {path.parent_path().string() + "/", fs::canonical(path.parent_path()).string() + "/"}) {
      for (auto at = text.find(folder); at != std::string::npos; at = text.find(folder)) text.erase(at, folder.size());
    }
    return text + "\n";
  }
}

std::string complaint_about(std::string_view text, const Lines& overrides = {}) {
  const TemporaryDirectory folder;
  spill(folder / "f.yaml", text);
  return complaint(folder / "f.yaml", overrides);
}

void expect_round_trip(const RunConfig& config) {
  const auto text = to_yaml(config);
  EXPECT_EQ(to_yaml(config_of(text)), text);
}

std::vector<fs::path> yaml_files(const fs::path& folder) {
  std::vector<fs::path> found;
  for (const auto& entry : fs::recursive_directory_iterator(folder)) {
    if (entry.path().extension() == ".yaml") found.push_back(entry.path());
  }
  std::sort(found.begin(), found.end());
  return found;
}

void write_bits(const fs::path& path, const std::vector<std::uint8_t>& bits, const Shape& shape) { write_npy(path, view_of(bits.data(), shape)); }

// ---- what is refused

/// bad_configs/expected.txt: `== FILE`, then the lines that loading FILE must say.
std::map<std::string, std::string> expected_complaints() {
  std::map<std::string, std::string> expected;
  std::istringstream text(slurp(kSource / "tests/experiments/bad_configs/expected.txt"));
  std::string* current = nullptr;
  for (std::string line; std::getline(text, line);) {
    if (line.starts_with("== "))
      current = &expected[line.substr(3)];
    else if (current != nullptr)
      *current += line + "\n";
  }
  return expected;
}

TEST(BadConfigs, SayWhatIsWrongAndWhere) {
  auto expected = expected_complaints();
  const auto files = yaml_files(kSource / "tests/experiments/bad_configs");
  EXPECT_GE(files.size(), 70u);
  for (const auto& path : files) {
    const auto name = path.filename().string();
    const auto said = complaint(path);
    EXPECT_EQ(said, expected[name]) << "bad_configs/expected.txt should read, if this is right:\n== " << name << "\n" << said;
    expected.erase(name);
  }
  for (const auto& [name, said] : expected) ADD_FAILURE() << "bad_configs/expected.txt speaks of a file that is not there: " << name;
}

TEST(BadConfigs, LargerThanAMebibyte) {
  const std::string start = "name: large\n# ";
  EXPECT_EQ(complaint_about(start + std::string((1 << 20) - start.size(), 'x')), "");
  EXPECT_EQ(complaint_about(start + std::string((1 << 20) - start.size() + 1, 'x')), "f.yaml:1:1: larger than 1 MiB\n");
}

TEST(BadConfigs, AreConfigErrors) {
  test::expect_error(ExitCode::config, "train.lr", [] { load_text("train: {lr: 0}"); });
  test::expect_error(ExitCode::config, "No such file", [] { load_config("/nowhere/f.yaml", {}); });
}

TEST(BadConfigs, OverridesAreCheckedAsTheFileIs) {
  const std::string text = "train: {steps: 1000, betas: [0.9, 0.999]}\nevents: [{kind: switch, at: 50%}, {kind: snapshot, at: 500}]\n";
  EXPECT_EQ(complaint_about(text, {"train.lrr=1"}), "<train.lrr=1>:1:7: train.lrr: unknown key 'lrr'; did you mean 'lr'?\n");
  EXPECT_EQ(complaint_about(text, {"events.0.at=end"}),
            "<events.0.at=end>:1:13: events.0.at: a switch at the last step (1000) trains nothing after it\n");
  EXPECT_EQ(complaint_about(text, {"train.steps=400"}), "f.yaml:2:56: events.1.at: 500 is beyond the last step (400)\n");
  EXPECT_EQ(complaint_about(text, {"events.2.at=5"}), "<events.2.at=5>:1:8: events: has no entry '2', the list has 2\n");
  EXPECT_EQ(complaint_about(text, {"data.file=bits.npy"}),
            "<data.file=bits.npy>:1:11: data.file: " + (fs::canonical(".") / "bits.npy").string() + ": cannot open: No such file or directory\n");
  EXPECT_EQ(complaint_about(text, {"seed=1", "seed=-1", "train.betas.1=1"}),
            "<seed=-1>:1:6: seed: must be in [0, 4294967295], got -1\n"
            "<train.betas.1=1>:1:15: train.betas.1: must be in [0, 1), got 1\n");
  EXPECT_EQ(complaint_about("sweep: {seed: [1, 2]}", {"train.lr=0"}),
            complaint_about("sweep: {seed: [1, 2]}") + "<train.lr=0>:1:10: train.lr: must be > 0, got 0\n");
}

TEST(BadConfigs, OneThingWrongIsSaidOnce) {
  // nothing that follows from it alone: no schedule against a bad number of steps, no groups of a bad model
  EXPECT_EQ(complaint_about("train: {steps: 0}\nevents: [{kind: switch, at: 50%}, {kind: snapshot, every: 9}]"),
            "f.yaml:1:16: train.steps: must be in [1, 1000000000000], got 0\n");
  EXPECT_EQ(complaint_about("model: {heads: 0}\nevents: [{kind: freeze, at: 5, params: [x]}]"),
            "f.yaml:1:16: model.heads: must be in [1, 4096], got 0\n");
}

// ---- what is accepted

TEST(GoodConfigs, OfTheProjectLoadAndReadBack) {
  const auto files = yaml_files(kSource / "configs");
  EXPECT_FALSE(files.empty());
  std::set<std::string> folders;
  for (const auto& path : files) {
    SCOPED_TRACE(path.string());
    ASSERT_EQ(complaint(path, {"sweep={}"}), "");
    const auto config = load_config(path, {"sweep={}"}).config;
    expect_round_trip(config);
    EXPECT_TRUE(folders.insert(*config.group + "/" + *config.run).second) << "two configurations share the folder " << *config.group;
  }
}

TEST(GoodConfigs, AreResolved) {
  const auto loaded = load_text("name: a\nseed: 7\nevents: [{kind: switch, at: 50%}, {kind: snapshot, every: 100, name: b}]");
  const auto& config = loaded.config;
  EXPECT_FALSE(loaded.threads_given);
  EXPECT_EQ(config.threads, threads_for(config, available_cores()));
  EXPECT_GE(config.threads, 1);
  EXPECT_EQ(config.data.seed, std::nullopt);
  EXPECT_EQ(std::get<OneLayerAttentionConfig>(config.model).seed, std::nullopt);
  EXPECT_THAT(to_yaml(config), HasSubstr("  seed: null\n"));
  EXPECT_EQ(config.group, "a");
  EXPECT_EQ(config.run, "a");
  EXPECT_EQ(name_of(config.events[0]), "switch");
  EXPECT_EQ(name_of(config.events[1]), "b");
  EXPECT_THAT(to_yaml(config), HasSubstr("at: 50%"));
  expect_round_trip(config);
}

TEST(GoodConfigs, WhatIsGivenStays) {
  const auto loaded = load_text("{name: a, group: g, run: 'lr=0.1,seed=3', seed: 7, threads: 3, data: {seed: 1}, model: {seed: 4294967295}}");
  const auto& config = loaded.config;
  EXPECT_TRUE(loaded.threads_given);
  EXPECT_EQ(config.threads, 3);
  EXPECT_EQ(config.data.seed, 1u);
  EXPECT_EQ(std::get<OneLayerAttentionConfig>(config.model).seed, 4294967295u);
  EXPECT_EQ(config.group, "g");
  EXPECT_EQ(config.run, "lr=0.1,seed=3");
  expect_round_trip(config);
}

TEST(Seeds, FollowTheRunsUnlessGiven) {
  const auto seeds = [](const Lines& overrides, std::string_view text = "name: a") {
    const auto config = config_of(text, overrides);
    const auto spelled_out = with_seeds(config);
    EXPECT_EQ(spelled_out.data.seed, data_seed(config));
    EXPECT_EQ(std::get<OneLayerAttentionConfig>(spelled_out.model).seed, model_seed(config));
    return std::vector{data_seed(config), model_seed(config)};
  };
  EXPECT_THAT(seeds({}), ElementsAre(0, 0));
  EXPECT_THAT(seeds({"seed=7"}), ElementsAre(7, 7));
  EXPECT_THAT(seeds({"seed=7", "data.seed=1"}), ElementsAre(1, 7));
  EXPECT_THAT(seeds({"seed=7", "model.seed=4294967295"}), ElementsAre(7, 4294967295));
  const auto resolved = to_yaml(config_of("seed: 3"));  // as a run directory keeps it
  EXPECT_THAT(seeds({}, resolved), ElementsAre(3, 3));
  EXPECT_THAT(seeds({"seed=1"}, resolved), ElementsAre(1, 1));
}

TEST(Seeds, AnOverrideThatChangesNoNumberIsRefused) {
  const std::string pinned = "{seed: 5, data: {seed: 0}, model: {seed: 2}}";
  const std::string problem =
      "seed: changes no random number: data.seed = 0 and model.seed = 2 are given; to make them follow it, add data.seed=null model.seed=null\n";
  EXPECT_EQ(complaint_about(pinned, {"seed=1"}), "<seed=1>:1:6: " + problem);
  EXPECT_EQ(complaint_about("name: a", {"data.seed=0", "seed=1", "model.seed=2"}), "<seed=1>:1:6: " + problem);
  EXPECT_EQ(complaint_about(pinned), "");
  EXPECT_EQ(complaint_about(pinned, {"train.lr=1"}), "");
  EXPECT_EQ(complaint_about(pinned, {"seed=1", "model.seed=null"}), "");
  EXPECT_EQ(complaint_about("{seed: 1, data: {seed: 1}, model: {seed: 1}}", {"seed=1"}), "");  // it is what it says
}

TEST(Threads, FollowTheWorkOfAStep) {
  const auto threads = [](const Lines& overrides, std::int64_t cores = 64) { return threads_for(config_of("name: a", overrides), cores); };
  const Lines A{"model.heads=1", "data.length=100", "data.num_sequences=1e5", "train.batch_size=256"};
  const Lines B{"model.heads=2", "model.head_dim=64", "data.length=100", "data.num_sequences=1e5", "train.batch_size=256"};
  EXPECT_EQ(threads({"data.length=20", "train.batch_size=32"}), 1);  // bench C, and quickstart.yaml
  EXPECT_EQ(threads(A), 3);
  EXPECT_GT(threads(B), 32);
  EXPECT_EQ(threads(B, 8), 8);
  EXPECT_EQ(threads(B, 1), 1);
  EXPECT_EQ(threads({"data.length=2", "train.batch_size=1"}), 1);
  EXPECT_EQ(threads({"model.kind=dam", "data.length=50", "train.batch_size=50", "data.num_sequences=500"}), 3);
  EXPECT_EQ(threads({"model.kind=dam", "data.length=20", "train.batch_size=32", "data.num_sequences=256"}), 1);
  EXPECT_EQ(threads({"model.kind=dam", "model.objective=retrieval", "data.length=50", "data.num_sequences=1e6"}), 64);
  EXPECT_EQ(threads({"model.kind=prefix_readout"}), 1);
}

TEST(GoodConfigs, NumbersThatThePrecisionHolds) {
  EXPECT_EQ(complaint_about("train: {lr: 1.5e-45, eps: 1e-40, weight_decay: 0, betas: [0, 0.9999999]}"), "");
  EXPECT_EQ(complaint_about("{precision: fp64, train: {lr: 1e-60, eps: 1e-300, betas: [1e-60, 0.9999999999]}, model: {init_std: 1e-50}}"), "");
}

TEST(GoodConfigs, TheSmallest) {
  const auto config = config_of(
      "{data: {num_sequences: 1, length: 2}, train: {steps: 1, batch_size: 1}, eval: {novel: 0}, "
      "model: {heads: 1, head_dim: 1, mlp_layers: 1}}");
  EXPECT_EQ(config.data.num_sequences, 1);
  EXPECT_EQ(config.data.length, 2);
  expect_round_trip(config);
}

TEST(GoodConfigs, DevicesAndPrecisions) {
  for (const auto* device : {"auto", "cpu"}) EXPECT_EQ(complaint_about("precision: fp64", {fmt::format("device={}", device)}), "");
  for (const auto* device : {"auto", "cpu", "cuda", "cuda:0", "cuda:7", "cuda:15"}) {
    EXPECT_EQ(config_of("name: a", {fmt::format("device={}", device)}).device, device);
  }
}

TEST(GoodConfigs, FreezeByGroupNameAndPattern) {
  for (const auto* params : {"embeddings", "c_attn", "ln_f", "mlp", "lm_head", "wte.weight", "linear_modules.*.weight", "'*.bias'", "'*'"}) {
    EXPECT_EQ(complaint_about("events: [{kind: freeze, at: 5, params: [" + std::string(params) + "]}]"), "") << params;
  }
  EXPECT_EQ(complaint_about("{model: {mlp_layers: 4}, events: [{kind: freeze, at: 5, params: [linear_modules.3.bias]}]}"), "");
}

TEST(OwnData, GivesKAndL) {
  const TemporaryDirectory folder;
  fs::create_directories(folder / "configs");
  fs::create_directories(folder / "data");
  write_bits(folder / "data/bits.npy", {0, 1, 0, 1, 1, 0}, {2, 3});
  const std::vector<double> weights{3, 1};
  write_npy(folder / "data/weights.npy", view_of(weights.data(), {2}));
  spill(folder / "configs/f.yaml", "data: {file: ../data/bits.npy, weights: ../data/weights.npy}");

  const auto config = load_config(folder / "configs/f.yaml", {}).config;
  EXPECT_EQ(config.data.num_sequences, 2);
  EXPECT_EQ(config.data.length, 3);
  EXPECT_EQ(*config.data.file, fs::canonical(folder / "data/bits.npy"));
  EXPECT_EQ(*config.data.weights, fs::canonical(folder / "data/weights.npy"));
  expect_round_trip(config);  // from another folder

  EXPECT_EQ(complaint(folder / "configs/f.yaml", {"data.num_sequences=2", "data.length=3"}), "");
  EXPECT_EQ(load_config(folder / "configs/f.yaml", {"data.file=null", "data.num_sequences=2"}).config.data.length, 32);
  const auto bits = (fs::canonical(folder.path()) / "data/bits.npy").string();  // what an override names is of the working directory
  EXPECT_EQ(complaint(folder / "configs/f.yaml", {"data.weights=" + bits}),
            "<data.weights=" + bits + ">:1:14: data.weights: " + bits + " has shape (2, 3), expected (K)\n");
}

TEST(OwnData, OfEveryIntegerType) {
  const TemporaryDirectory folder;
  spill(folder / "f.yaml", "data: {file: bits.npy}");
  const std::vector<std::int64_t> wide{0, 1, 1, 0};
  write_npy(folder / "bits.npy", view_of(wide.data(), {2, 2}));
  EXPECT_EQ(complaint(folder / "f.yaml"), "");
  const std::vector<std::int32_t> narrow{0, 1, 1, 0};
  write_npy(folder / "bits.npy", view_of(narrow.data(), {1, 4}));
  EXPECT_EQ(load_config(folder / "f.yaml", {}).config.data.length, 4);
}

// ---- overrides

TEST(Overrides, OfValuesListsAndEvents) {
  const std::string text = "{train: {betas: [0.9, 0.999]}, events: [{kind: switch, at: 50%}, {kind: freeze, at: 500, params: [mlp]}]}";
  EXPECT_EQ(config_of(text, {"train.lr=3e-4"}).train.lr, 3e-4);
  EXPECT_EQ(config_of(text, {"train.betas.0=0.5"}).train.betas[0], 0.5);
  EXPECT_EQ(config_of(text, {"train.betas=[0.5, 0.6]"}).train.betas[1], 0.6);
  EXPECT_EQ(config_of(text, {"train.steps=1e5"}).train.steps, 100000);
  EXPECT_EQ(config_of(text, {"train={lr: 0.5}"}).train.lr, 0.5);
  EXPECT_EQ(config_of("train: {steps: 7}", {"train={lr: 0.5}"}).train.steps, 7);
  EXPECT_EQ(config_of(text, {"seed=1", "seed=2"}).seed, 2u);
  EXPECT_THAT(config_of(text, {"events=[]"}).events, IsEmpty());
  EXPECT_EQ(schedule_of(config_of(text, {"events.1.at=700"}).events[1]).at->step(1000), 700);
  EXPECT_EQ(std::get<FreezeEvent>(config_of(text, {"events.1.params.0=c_attn"}).events[1]).params, Lines{"c_attn"});
  const auto every = config_of(text, {"events.1.at=null", "events.1.every=50"});
  EXPECT_EQ(schedule_of(every.events[1]).every, 50);
  expect_round_trip(every);
}

TEST(RunName, IsTheNameWithoutOverrides) { EXPECT_EQ(run_of({}), "base"); }

TEST(RunName, HoldsOverridesInTheOrderOfTheFields) {
  EXPECT_EQ(run_of({"model.heads=2", "train.lr=0.001"}), "model.heads=2,train.lr=0.001");
  EXPECT_EQ(run_of({"train.lr=0.001", "model.heads=2"}), "model.heads=2,train.lr=0.001");
  EXPECT_EQ(run_of({"eval.every=50", "data.length=8", "seed=3"}), "seed=3,data.length=8,eval.every=50");
}

TEST(RunName, HasShortestDecimals) {
  for (const auto* lr : {"1e-3", "1.0e-3", "0.0010", "0.001", "10e-4"}) {
    EXPECT_EQ(run_of({fmt::format("train.lr={}", lr)}), "train.lr=0.001");
  }
  EXPECT_EQ(run_of({"train.batch_size=1e2"}), "train.batch_size=100");
  EXPECT_EQ(run_of({"train.eps=1e-8"}), "train.eps=1.0e-08");
  EXPECT_EQ(run_of({"train.betas=[0.90, 0.950]"}), run_of({"train.betas=[0.9,0.95]"}));
}

TEST(RunName, HoldsWhatAMapSets) {
  EXPECT_EQ(run_of({"train={lr: 1e-3, steps: 7}", "seed=3"}), "seed=3,train.lr=0.001");
  EXPECT_EQ(run_of({"output={keep: 3}", "model={kind: dam, heads: 2}"}), "model.kind=dam,model.heads=2");
}

TEST(RunName, TakesTheLastOverrideOfAKey) {
  EXPECT_EQ(run_of({"seed=1", "seed=2"}), "seed=2");
  EXPECT_EQ(*config_of("events: [{kind: switch, at: 5}]", {"events.0.at=7", "seed=3", "events=[{kind: snapshot, at: 5}]"}).run,
            *config_of("events: [{kind: switch, at: 5}]", {"events.0.at=5", "seed=3", "events=[{kind: snapshot, at: 5}]"}).run);
  EXPECT_THAT(*config_of("events: [{kind: switch, at: 5}]", {"events.0.at=7", "seed=3", "events=[]"}).run, HasSubstr("seed=3,events="));
}

TEST(RunName, LeavesOutWhatChangesNoNumber) {
  for (const auto* incidental :
       {"name=base", "group=g", "device=cpu", "threads=2", "train.steps=1000", "output.keep=3", "output.sequences=false", "output={keep: 3}"}) {
    EXPECT_EQ(run_of({incidental}), "base") << incidental;
    EXPECT_EQ(run_of({incidental, "seed=4"}), "seed=4") << incidental;
  }
  EXPECT_EQ(run_of({"name=other"}), "other");
  EXPECT_EQ(run_of({"run=mine", "seed=4"}), "mine");
  EXPECT_EQ(run_of({"run=null", "seed=4"}), "seed=4");
}

TEST(RunName, IsAlwaysAFileNameThatReadsBack) {
  const std::string long_name(80, 'n');
  const std::vector<Lines> many{{"train.betas=[0.9,0.95]"},
                                {"events=[]"},
                                {"events=[{kind: snapshot, at: 50%, name: " + long_name + "}]"},
                                {"data.num_sequences=123456", "data.length=24", "data.zipf_exponent=1.25", "model.heads=2", "model.head_dim=8",
                                 "model.mlp_layers=2", "train.lr=0.001", "train.weight_decay=0.01"}};
  std::set<std::string> names;
  for (const auto& overrides : many) {
    const auto config = config_of("name: base", overrides);
    const auto& run = *config.run;
    EXPECT_LE(run.size(), 100u);
    EXPECT_EQ(run.find_first_not_of("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._=,+-"), std::string::npos) << run;
    EXPECT_EQ(run, *config_of("name: base", overrides).run);
    EXPECT_TRUE(names.insert(run).second);
    expect_round_trip(config);
  }
  expect_round_trip(config_of("name: base", {"model.heads=2", "train.lr=0.001"}));
}

TEST(RunName, TellsApartWhatIsCutOrCleaned) {
  const std::string name(90, 'n');
  EXPECT_NE(run_of({"events=[{kind: snapshot, at: 50%, name: " + name + "a}]"}), run_of({"events=[{kind: snapshot, at: 50%, name: " + name + "b}]"}));
  EXPECT_NE(run_of({"train.betas=[0.9,0.95]"}), run_of({"train.betas=[0.9,0.96]"}));
}

TEST(RunName, UsesAllHundredCharacters) {
  const auto run_with = [](std::size_t size) {
    const std::string name(size - std::string("events.0.name=").size(), 'n');
    return *config_of("events: [{kind: switch, at: 5}]", {"events.0.name=" + name}).run;
  };
  EXPECT_EQ(run_with(100), "events.0.name=" + std::string(86, 'n'));
  EXPECT_EQ(run_with(101).size(), 100u);
  EXPECT_EQ(run_with(101)[91], '-');  // then the hash
}

// ---- a configuration against the one that a directory was made with

const char* const kRun = "{name: a, train: {steps: 1000, betas: [0.9, 0.999]}, output: {keep: 2}, events: [{kind: switch, at: 50%}]}";

Lines changes(const Lines& overrides) { return differences(config_of(kRun), config_of(kRun, overrides)); }

TEST(Differences, NoneOfWhatMayChange) {
  EXPECT_THAT(changes({}), IsEmpty());
  EXPECT_THAT(changes({"name=b", "group=g", "run=r", "device=cuda:1", "threads=7"}), IsEmpty());
  EXPECT_THAT(changes({"output.keep=5", "output.checkpoint_minutes=0.5", "output.sequences=false"}), IsEmpty());
  EXPECT_THAT(changes({"train.steps=1001"}), IsEmpty());
  EXPECT_THAT(changes({"train.lr=1.0e-3", "seed=0"}), IsEmpty());
  EXPECT_THAT(changes({"data.seed=0", "model.seed=0"}), IsEmpty());  // as run directories kept them that were made before
  EXPECT_THAT(differences(config_of(kRun, {"data.seed=0", "model.seed=0"}), config_of(kRun)), IsEmpty());
}

TEST(Differences, OldAndNew) {
  EXPECT_THAT(changes({"train.steps=999"}), ElementsAre("train.steps: 1000 -> 999"));
  EXPECT_THAT(changes({"train.lr=0.01"}), ElementsAre("train.lr: 0.001 -> 0.01"));
  EXPECT_THAT(changes({"train.betas.1=0.99"}), ElementsAre("train.betas.1: 0.999 -> 0.99"));
  EXPECT_THAT(changes({"precision=fp64"}), ElementsAre("precision: fp32 -> fp64"));
  EXPECT_THAT(changes({"seed=3"}), ElementsAre("seed: 0 -> 3", "data.seed: 0 -> 3", "model.seed: 0 -> 3"));
  EXPECT_THAT(changes({"model.heads=2", "eval.every=7", "train.log_every=3"}),
              ElementsAre("model.heads: 4 -> 2", "train.log_every: 100 -> 3", "eval.every: 500 -> 7"));
}

TEST(Differences, ACosineEndsWhereItWasPlanned) {
  const Lines cosine{"train.schedule=cosine"}, longer{"train.schedule=cosine", "train.steps=2000"};
  EXPECT_THAT(differences(config_of(kRun, cosine), config_of(kRun, longer)),
              ElementsAre("train.steps: 1000 -> 2000 (train.schedule: cosine took its learning rates on a way to 0 at 1000)"));
  EXPECT_THAT(changes({"train.schedule=cosine"}), ElementsAre("train.schedule: constant -> cosine"));
  const Lines warm{"train.warmup=10"}, longer_warm{"train.warmup=10", "train.steps=2000"};
  EXPECT_THAT(differences(config_of(kRun, warm), config_of(kRun, longer_warm)), IsEmpty());
}

TEST(Differences, InEvents) {
  EXPECT_THAT(changes({"events.0.at=400"}), ElementsAre("events.0.at: 50% -> 400"));
  EXPECT_THAT(changes({"events=[]"}),
              ElementsAre("events.0.kind: switch -> (none)", "events.0.at: 50% -> (none)", "events.0.every: null -> (none)",
                          "events.0.name: switch -> (none)", "events.0.reset_optimizer: false -> (none)", "events.0.clear_memory: null -> (none)"));
  EXPECT_THAT(differences(config_of(kRun, {"events=[]"}), config_of(kRun)),
              ElementsAre("events.0.kind: (none) -> switch", "events.0.at: (none) -> 50%", "events.0.every: (none) -> null",
                          "events.0.name: (none) -> switch", "events.0.reset_optimizer: (none) -> false", "events.0.clear_memory: (none) -> null"));
}

// ---- the list of settings

TEST(Describe, EveryRuleFitsItsMember) {
  const auto help = describe(RunConfig());
  EXPECT_GT(help.size(), 50u);
  for (const auto& field : help) EXPECT_FALSE(field.help.empty()) << field.path;
}

// ---- points in time

std::optional<When> when(std::string_view text) {
  When value;
  std::string problem;
  if (!value.from_text(text, problem)) return {};
  return value;
}

TEST(When, Steps) {
  const std::map<std::string, std::int64_t> steps{{"0", 0}, {"500", 500}, {"1e3", 1000}, {"2.5e3", 2500}, {"500.0", 500}};
  for (const auto& [text, step] : steps) {
    const auto value = when(text);
    ASSERT_TRUE(value) << text;
    EXPECT_EQ(value->step(777), step);
    EXPECT_EQ(value->to_text(), std::to_string(step));
    EXPECT_FALSE(value->relative());
  }
}

TEST(When, PercentagesAreExactAndRoundedDown) {
  for (const auto* text : {"0%", "50%", "12.5%", "100%", "end"}) {
    ASSERT_TRUE(when(text)) << text;
    EXPECT_EQ(when(text)->to_text(), text);
    EXPECT_TRUE(when(text)->relative());
  }
  EXPECT_EQ(when("end")->step(777), 777);
  EXPECT_EQ(when("100%")->step(777), 777);
  EXPECT_EQ(when("0%")->step(777), 0);
  EXPECT_EQ(when("12.5%")->step(1000), 125);
  EXPECT_EQ(when("50%")->step(7), 3);
  EXPECT_EQ(when("99.99%")->step(100), 99);
  for (std::int64_t hundredths = 0; hundredths <= 10000; ++hundredths) {  // in binary, 0.57 * 10000 / 100 is below 57
    const auto text = fmt::format("{}.{:02}%", hundredths / 100, hundredths % 100);
    for (const std::int64_t steps : {100, 777, 10000, 20000, 1000000}) {
      EXPECT_EQ(when(text)->step(steps), hundredths * steps / 10000) << text;
    }
  }
  EXPECT_EQ(when("33.333333%")->step(1'000'000'000'000), 333'333'330'000);
  EXPECT_EQ(when("99.9999999999%")->step(1'000'000'000'000), 999'999'999'999);
}

TEST(When, Refused) {
  for (const auto* text : {"",   "%",    "-1",  "-0",   "-5%", "50.5", "101%", "100.1%", "010",   "05%",  "00",   ".5%",  "5.%",
                           "+5", "0x10", "End", "50 %", " 50", "nan",  "inf",  "nan%",   "1e400", "1e16", "50%%", "half", "1_000"}) {
    EXPECT_FALSE(when(text)) << text;
  }
}

TEST(Schedule, CountsOccurrencesUpToAStep) {
  Schedule every, at;
  every.every = 10;
  at.at = when("50%");
  for (const std::int64_t steps : {20, 25, 30}) {
    std::int64_t often = 0, once = 0;
    for (std::int64_t step = 0; step <= steps; ++step) {
      often += every.due(step, steps);
      once += at.due(step, steps);
      EXPECT_EQ(every.occurrences(steps, step), often) << step << " of " << steps;
      EXPECT_EQ(at.occurrences(steps, step), once) << step << " of " << steps;
    }
    EXPECT_EQ(every.occurrences(steps), often);
    EXPECT_EQ(at.occurrences(steps), once);
  }
}

TEST(Schedule, EveryIsNeitherTheFirstNorTheLastStep) {
  Schedule schedule;
  schedule.every = 10;
  EXPECT_FALSE(schedule.due(0, 30));
  EXPECT_TRUE(schedule.due(10, 30));
  EXPECT_FALSE(schedule.due(15, 30));
  EXPECT_TRUE(schedule.due(20, 30));
  EXPECT_FALSE(schedule.due(30, 30));
}

}  // namespace
}  // namespace mnemo
