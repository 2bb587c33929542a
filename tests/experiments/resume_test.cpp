// A run that is interrupted and resumed ends in the same bytes as one that is not, wherever it was interrupted (DESIGN 3 and 4).

#include "experiments/commands/train.h"

#include "core/npy.h"
#include "experiments/run/run.h"
#include "experiments/run/weights.h"
#include "tests/experiments/place.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>
#include <torch/torch.h>
#include <unistd.h>

#include <functional>
#include <map>
#include <optional>
#include <sstream>

namespace mnemo {
namespace {

using test::expect_same;
using test::results;
using test::slurp;
using test::spill;
using ::testing::HasSubstr;
using ::testing::Not;

/// 24 steps. Everything that can meet at one step meets at step 12; the last step has an event, a log line and an evaluation that fall on
/// no multiple. Two lines of metrics and evaluations lie before step 12, so that resumes rewind files of several rows.
constexpr const char* kConfig = R"(name: tiny
threads: 1
device: cpu
data:  {num_sequences: 12, length: 6}
model: {kind: one_layer_attention, heads: 1, head_dim: 4, mlp_layers: 1}
train: {steps: 24, batch_size: 4, lr: 1.0e-2, log_every: 5}
eval:  {every: 6, train_stride: 3, validation_stride: 2, novel: 3}
events:
  - {kind: freeze,   at: 6, params: [mlp]}
  - {kind: snapshot, at: 12, name: before}
  - {kind: switch,   at: 12}
  - {kind: freeze,   at: 12, name: freeze_attention, params: [c_attn]}
  - {kind: unfreeze, at: 12, params: [mlp]}
  - {kind: snapshot, every: 9, name: often}
  - {kind: snapshot, at: end, name: last}
)";

struct Place : test::Place {
  explicit Place(const std::string& config = kConfig) : test::Place(config) {}
};

/// The uninterrupted run, and how often it asks whether to stop.
struct Reference {
  std::map<std::string, std::string> files;
  std::int64_t polls = 0;
};

Reference uninterrupted(const std::string& config) {
  Reference reference;
  const Place place(config);
  auto request = place.request();
  request.host.stop = [&] { return ++reference.polls < 0; };
  EXPECT_EQ(Place::carry_out(request).code, ExitCode::done);
  reference.files = results(place.run());
  return reference;
}

const Reference& reference() {
  static const Reference made = uninterrupted(kConfig);
  return made;
}

TEST(Resume, ReferenceHoldsWhatTheTestsCompare) {
  const auto& files = reference().files;
  for (const char* path : {"config.yaml", "run.json", "metrics.jsonl", "switches.json", "theory.json", "theory/phase_1.npy", "final.safetensors",
                           "sequences/phase_0.npy", "sequences/phase_1.npy", "eval/train/loss.npy", "eval/phase_0/presentations.npy",
                           "eval/phase_1/last_seen.npy", "eval/novel/accuracy.npy", "snapshots/before.safetensors", "snapshots/often_9.safetensors",
                           "snapshots/often_18.safetensors", "snapshots/last.safetensors", "end"}) {
    EXPECT_TRUE(files.contains(path)) << path;
  }
  EXPECT_NE(files.at("sequences/phase_0.npy"), files.at("sequences/phase_1.npy"));
  EXPECT_EQ(files.at("final.safetensors").size(), files.at("snapshots/last.safetensors").size());
  // 24 steps, 5 log lines, 6 evaluations (0, 6, 12 twice, 18, 24), 8 events and, within evaluations, a poll for each set that is scored
  EXPECT_EQ(reference().polls, 24 + 5 + 6 + 8 + (3 * 3 + 3 * 4));
}

void expect_same_bytes_from_every_poll(const std::string& config, const Reference& reference) {
  for (std::int64_t k = 1; k <= reference.polls; ++k) {
    SCOPED_TRACE(fmt::format("stopped at poll {}", k));
    const Place place(config);
    const auto stopped = place.train_until_poll(k);
    ASSERT_EQ(stopped.code, ExitCode::stopped);
    ASSERT_THAT(stopped.text, HasSubstr("Resume with\n  mnemo train "));
    ASSERT_EQ(place.status().at("state"), "stopped");
    ASSERT_FALSE(fs::exists(place.run() / "final.safetensors"));
    const auto resumed = place.train();
    ASSERT_EQ(resumed.code, ExitCode::done) << resumed.text;
    ASSERT_THAT(resumed.text, HasSubstr("resumed at step "));
    ASSERT_EQ(place.status().at("state"), "done");
    expect_same(results(place.run()), reference.files);
    if (::testing::Test::HasFailure()) return;
  }
}

TEST(Resume, StoppedAtEveryPollEndsInTheSameBytes) { expect_same_bytes_from_every_poll(kConfig, reference()); }

/// Every kind of event, each also where it comes more than once or meets another.
constexpr const char* kEveryEvent = R"(name: tiny
threads: 1
device: cpu
data:  {num_sequences: 12, length: 6}
model: {kind: one_layer_attention, heads: 1, head_dim: 4, mlp_layers: 2}
train: {steps: 24, batch_size: 4, lr: 1.0e-2, warmup: 6, clip_norm: 0.05, log_every: 5, stop_if: {train_loss_above: 5, after: 8}}
eval:  {every: 12, per_decade: 1, train_stride: 3, validation_stride: 2, novel: 3}
events:
  - {kind: fork_probe, at: 0, name: untrained, freeze: [c_attn], sequences: 3, max_steps: 11}
  - {kind: snapshot,   every: 5, name: often}
  - {kind: switch,     every: 8, reset_optimizer: true}
  - {kind: freeze,     at: 8, params: [c_attn], reset_optimizer: true}
  - {kind: unfreeze,   at: 10, params: [c_attn]}
  - {kind: swap_test,  every: 6, params: [mlp, lm_head], from: often_5, on: [phase_0, train]}
  - {kind: load,       at: 10, from: often_5, params: [mlp], reset_optimizer: true}
  - {kind: transplant, at: 16, from: often_10, stride: 5}
  - {kind: features,   at: 16, sequences: 70}
  - {kind: swap_test,  at: end, name: swap_all, params: ["*"], from: often_5}
  - {kind: features,   at: end, name: last_features, sequences: 2, stride: 3}
  - {kind: fork_probe, at: end, name: trained, sequences: 3, until: 0.1, max_steps: 20}
)";

const Reference& reference_of_every_event() {
  static const Reference made = uninterrupted(kEveryEvent);
  return made;
}

TEST(Resume, AtEveryPollOfEveryKindOfEventEndsInTheSameBytes) {
  const auto& files = reference_of_every_event().files;
  for (const char* path :
       {"eval/swap_test.phase_0/step.npy", "eval/swap_all.novel/loss.npy", "transplant/transplant.csv", "probes/untrained.0.json",
        "probes/trained.24.accuracy.npy", "features/features.16/layer_2.npy", "features/last_features.24/position.npy", "sequences/phase_2.npy"}) {
    EXPECT_TRUE(files.contains(path)) << path;
  }
  expect_same_bytes_from_every_poll(kEveryEvent, reference_of_every_event());
}

TEST(Resume, StopsSoonAndOftenWithinOneRun) {
  // an evaluation asks five times (for itself, and for each of four sets): fewer polls than that would never get through it
  for (const std::int64_t polls : {6, 7, 11}) {
    SCOPED_TRACE(fmt::format("stopped at every poll {}", polls));
    const Place place;
    int sessions = 0;
    auto outcome = place.train_until_poll(polls);
    while (outcome.code == ExitCode::stopped && ++sessions < 100) outcome = place.train_until_poll(polls);
    ASSERT_EQ(outcome.code, ExitCode::done) << outcome.text;
    EXPECT_GE(sessions, 6);
    expect_same(results(place.run()), reference().files);
  }
}

TEST(Resume, MeasuresAndPicklesHaveTheSameBytesToo) {
  const std::vector<std::string> overrides{
      "run=tiny",     "train.log_every=4",     "train.schedule=cosine",       "train.warmup=5",
      "eval.every=4", "eval.by_position=true", "eval.completion={prefix: 2}", "eval.attention=[vertical_bars, decorrelation, attn_reps]"};
  const Place whole;
  auto request = whole.request(overrides);
  std::int64_t polls = 0;
  request.host.stop = [&] { return ++polls < 0; };
  ASSERT_EQ(Place::carry_out(request).code, ExitCode::done);
  const auto expected = results(whole.run());
  for (const char* path : {"tiny.pkl", "tiny_sequences.pkl", "attention/attn_reps.npy", "attention/step.npy", "eval/train/completed.npy",
                           "eval/phase_1/by_position_loss.npy", "eval/novel/by_position_bins.npy"}) {
    EXPECT_TRUE(expected.contains(path)) << path;
  }
  EXPECT_EQ(read_npy_header(whole.run() / "attention/attn_reps.npy").shape, (Shape{8, 4, 1, 6, 6}));
  for (std::int64_t k = 1; k <= polls; k += 7) {
    SCOPED_TRACE(fmt::format("stopped at poll {}", k));
    const Place place;
    ASSERT_EQ(place.train_until_poll(k, overrides).code, ExitCode::stopped);
    ASSERT_EQ(place.train(overrides).code, ExitCode::done);
    expect_same(results(place.run()), expected);
  }
}

TEST(Resume, StopWithinAnEvaluationLeavesNoRow) {
  const Place place;
  ASSERT_EQ(place.train_until_poll(3).code, ExitCode::stopped);  // the first evaluation: its own poll, the first set, the second
  EXPECT_EQ(read_npy_header(place.run() / "eval/phase_0/step.npy").shape, Shape{0});
  EXPECT_EQ(read_npy_header(place.run() / "eval/phase_0/loss.npy").shape, (Shape{0, 6}));
}

TEST(Resume, StoppedWhileDataArePreparedEndsInTheSameBytes) {
  // tables large enough to be polled in, at the start and at a switch
  const std::string config =
      "name: tiny\nthreads: 1\ndevice: cpu\ndata: {num_sequences: 70000, length: 6}\nmodel: {kind: one_layer_attention, heads: 1, head_dim: 4, "
      "mlp_layers: 1}\n"
      "train: {steps: 24, batch_size: 4, log_every: 24}\neval: {every: 24, train_stride: 70000, validation_stride: 70000, novel: 0}\n"
      "events: [{kind: switch, at: 12}]\noutput: {sequences: false, pickle: none}\n";
  const auto whole = uninterrupted(config);
  ASSERT_GT(whole.polls, 24 + 2 * 15);  // not steps alone: each table is sorted
  int before_the_first_step = 0, at_the_switch = 0;
  for (std::int64_t k = 1; k <= whole.polls; k += 6) {
    SCOPED_TRACE(fmt::format("stopped at poll {}", k));
    const Place place(config);
    ASSERT_EQ(place.train_until_poll(k).code, ExitCode::stopped);
    ASSERT_EQ(place.status().at("state"), "stopped");
    before_the_first_step += place.status().at("step") == 0 ? 1 : 0;
    at_the_switch += place.status().at("step") == 12 ? 1 : 0;
    ASSERT_EQ(place.train().code, ExitCode::done);
    expect_same(results(place.run()), whole.files);
  }
  EXPECT_GE(before_the_first_step, 2);
  EXPECT_GE(at_the_switch, 2);
}

TEST(Resume, LossOfTheLastLineIsKeptForTheStatus) {
  const Place place;
  ASSERT_EQ(place.train().code, ExitCode::done);
  const double expected = place.status().at("loss");
  const Place other;
  ASSERT_EQ(other.train_until_poll(reference().polls).code, ExitCode::stopped);  // after the last line
  EXPECT_EQ(other.status().at("loss"), expected);
  ASSERT_EQ(other.train().code, ExitCode::done);
  EXPECT_EQ(other.status().at("loss"), expected);
}

TEST(Resume, KilledProcessResumesFromItsLastCheckpoint) {
  // a process that is killed leaves rows, lines and files after its checkpoint: here those of a stop that its checkpoint is taken from
  const Place place;
  ASSERT_EQ(place.train_until_poll(30).code, ExitCode::stopped);
  const auto at_30 = fs::path(place.run().string() + ".kept");
  fs::copy(place.run() / "checkpoints", at_30, fs::copy_options::recursive);
  ASSERT_EQ(place.train_until_poll(25).code, ExitCode::stopped);
  fs::remove_all(place.run() / "checkpoints");
  fs::rename(at_30, place.run() / "checkpoints");
  spill(place.run() / "checkpoints/step_999.0.safetensors.tmp", "a checkpoint that was being written");
  ASSERT_EQ(place.train().code, ExitCode::done);
  EXPECT_FALSE(fs::exists(place.run() / "checkpoints/step_999.0.safetensors.tmp"));
  expect_same(results(place.run()), reference().files);
}

TEST(Rerun, WhenDoneSaysSoAndChangesNothing) {
  const Place place;
  ASSERT_EQ(place.train().code, ExitCode::done);
  const auto again = place.train();
  EXPECT_EQ(again.code, ExitCode::done);
  EXPECT_THAT(again.text, HasSubstr("already done: " + place.run().string()));
  EXPECT_THAT(again.text, HasSubstr("ceiling"));
  expect_same(results(place.run()), reference().files);
}

TEST(Rerun, WithOtherSettingsIsRefusedAndNamesThem) {
  const Place place;
  ASSERT_EQ(place.train().code, ExitCode::done);
  std::string other = kConfig;
  other.replace(other.find("lr: 1.0e-2"), 10, "lr: 1.0e-1");
  other.replace(other.find("heads: 1"), 8, "heads: 2");
  spill(place.file(), other);
  const auto refused = place.train();
  EXPECT_EQ(refused.code, ExitCode::config);
  for (const char* part : {"train.lr: 0.01 -> 0.1", "model.heads: 1 -> 2", "name: ...", "override", "--restart"}) {
    EXPECT_THAT(refused.text, HasSubstr(part));
  }
  expect_same(results(place.run()), reference().files);
  EXPECT_EQ(place.status().at("state"), "done");
}

TEST(Rerun, MayChangeWhatDoesNotChangeNumbers) {
  const Place place;
  ASSERT_EQ(place.train_until_poll(40).code, ExitCode::stopped);
  const auto outcome = place.train({"output.keep=5", "output.checkpoint_minutes=0.5"});
  ASSERT_EQ(outcome.code, ExitCode::done) << outcome.text;
  auto files = results(place.run()), expected = reference().files;
  for (const char* file : {"config.yaml", "run.json"}) EXPECT_NE(files.extract(file).mapped(), expected.extract(file).mapped());
  expect_same(files, expected);
}

TEST(Rerun, RestartMovesTheOldRunAside) {
  const Place place;
  const auto old = place.cache() / "tiny/.old";
  ASSERT_EQ(place.train_until_poll(40).code, ExitCode::stopped);
  auto request = place.request();
  request.restart = true;
  for (const char* name : {"tiny.1", "tiny.2"}) {
    const auto before = place.metrics();
    const auto outcome = Place::carry_out(request);
    ASSERT_EQ(outcome.code, ExitCode::done) << outcome.text;
    EXPECT_THAT(outcome.text, HasSubstr((old / name).string()));
    EXPECT_EQ(slurp(old / name / "metrics.jsonl"), before);
    expect_same(results(place.run()), reference().files);
  }
}

TEST(Rerun, ResumeCommandOfARestartDoesNotRestart) {
  const Place place;
  ASSERT_EQ(place.train().code, ExitCode::done);
  auto request = place.request();
  request.restart = true;
  request.host.stop = [] { return true; };
  EXPECT_THAT(Place::carry_out(request).text, HasSubstr(fmt::format("Resume with\n  mnemo train {}\n", (place.run() / "config.yaml").string())));
}

TEST(Rerun, ConfigInItsOwnRunDirectoryResumesThere) {
  const Place place;
  ASSERT_EQ(place.train_until_poll(40).code, ExitCode::stopped);
  const auto moved = place.cache() / "elsewhere";
  fs::rename(place.run(), moved);
  TrainRequest request;
  request.config_path = moved / "config.yaml";
  const auto outcome = Place::carry_out(request);
  ASSERT_EQ(outcome.code, ExitCode::done) << outcome.text;
  expect_same(results(moved), reference().files);
  EXPECT_FALSE(fs::exists(place.run()));

  request.cache = place.cache() / "fresh";  // with another cache it starts afresh, under its names
  ASSERT_EQ(Place::carry_out(request).code, ExitCode::done);
  expect_same(results(place.cache() / "fresh/tiny/tiny"), reference().files);
}

// ---- more steps

/// Without a percentage: such a run may grow.
const Reference& longer_reference() {
  static const Reference made = [] {
    Reference reference;
    const Place place;
    EXPECT_EQ(place.train({"train.steps=40"}).code, ExitCode::done);
    reference.files = results(place.run(), 40);
    return reference;
  }();
  return made;
}

TEST(Extension, OfADoneRunEqualsOnePlannedLonger) {
  const Place place;
  ASSERT_EQ(place.train().code, ExitCode::done);
  const auto early = slurp(place.run() / "snapshots/last.safetensors");
  const auto outcome = place.train({"train.steps=40"});
  ASSERT_EQ(outcome.code, ExitCode::done) << outcome.text;
  EXPECT_THAT(outcome.text, HasSubstr("resumed at step 24 of 40"));
  EXPECT_NE(slurp(place.run() / "snapshots/last.safetensors"), early);  // `at: end` happened again, at the new end
  EXPECT_TRUE(fs::exists(place.checkpoint(24, 0)));                     // a planned end stays for ever
  auto files = results(place.run(), 40), expected = longer_reference().files;
  files.erase("end"), expected.erase("end");  // the ends that were planned differ
  expect_same(files, expected);

  const auto shorter = place.train();  // and back
  EXPECT_EQ(shorter.code, ExitCode::config);
  EXPECT_THAT(shorter.text, HasSubstr("train.steps: 40 -> 24"));
}

TEST(Extension, FromWithinTheLastActions) {
  for (std::int64_t back = 0; back < 6; ++back) {
    SCOPED_TRACE(fmt::format("stopped {} polls before the end", back));
    const Place place;
    ASSERT_EQ(place.train_until_poll(reference().polls - back).code, ExitCode::stopped);
    // interrupted at once: when it was saved with the new plan, no point among the actions of the old end may be left
    ASSERT_EQ(place.train_until_poll(1, {"train.steps=40"}).code, ExitCode::stopped);
    const auto outcome = place.train({"train.steps=40"});
    ASSERT_EQ(outcome.code, ExitCode::done) << outcome.text;
    auto files = results(place.run(), 40), expected = longer_reference().files;
    files.erase("end"), expected.erase("end");
    expect_same(files, expected);
  }
}

TEST(Extension, MovesTheFilesOfEventsAtTheEnd) {
  for (const std::int64_t back : {-1, 0, 2, 20}) {
    SCOPED_TRACE(fmt::format("stopped {} polls before the end", back));
    const Place place(kEveryEvent), planned(kEveryEvent);
    place.train_until_poll(reference_of_every_event().polls - back);
    ASSERT_EQ(place.train({"train.steps=40"}).code, ExitCode::done);
    ASSERT_EQ(planned.train({"train.steps=40"}).code, ExitCode::done);
    auto files = results(place.run(), 40), expected = results(planned.run(), 40);
    files.erase("end"), expected.erase("end");  // the ends that were planned differ
    expect_same(files, expected);
  }
}

TEST(Extension, DropsPointsOfTheOldEndBeforeItPromisesTheNewOne) {
  const Place place;
  ASSERT_EQ(place.train_until_poll(reference().polls).code, ExitCode::stopped);
  ASSERT_TRUE(fs::exists(place.checkpoint(24, 2)));  // log line and evaluation are done, the event is not
  ASSERT_EQ(place.train_until_poll(1, {"train.steps=40"}).code, ExitCode::stopped);
  EXPECT_FALSE(fs::exists(place.checkpoint(24, 2)));
  EXPECT_TRUE(fs::exists(place.checkpoint(24, 0)));
}

TEST(Extension, IsRefusedAfterAPercentageHasFiredAndChangesNothing) {
  std::string config = kConfig;
  for (auto at = config.find("at: 12"); at != config.npos; at = config.find("at: 12")) config.replace(at, 6, "at: 50%");
  const Place place(config);
  ASSERT_EQ(place.train().code, ExitCode::done);
  const auto before = results(place.run());
  const auto refused = place.train({"train.steps=40"});
  EXPECT_EQ(refused.code, ExitCode::config);
  for (const char* part : {"'before'", "50%", "12", "20"}) EXPECT_THAT(refused.text, HasSubstr(part));
  expect_same(results(place.run()), before);
  EXPECT_EQ(place.status().at("state"), "done");
  EXPECT_THAT(place.train().text, HasSubstr("already done"));
}

TEST(Extension, GoesOnWithThePrintedCommandThatPinsWhatHasFired) {
  std::string config = kConfig;
  for (auto at = config.find("at: 12"); at != config.npos; at = config.find("at: 12")) config.replace(at, 6, "at: 50%");
  const Place place(config);
  ASSERT_EQ(place.train().code, ExitCode::done);
  const auto refused = place.train({"train.steps=40"});
  ASSERT_EQ(refused.code, ExitCode::config);
  const auto begin = refused.text.find("mnemo train " + (place.run() / "config.yaml").string());
  ASSERT_NE(begin, refused.text.npos) << refused.text;
  std::istringstream printed(refused.text.substr(begin, refused.text.find('\n', begin) - begin));
  const std::vector<std::string> words{std::istream_iterator<std::string>(printed), {}};
  const std::vector<std::string> overrides(words.begin() + 3, words.end());
  EXPECT_THAT(overrides, ::testing::ElementsAre("train.steps=40", "events.1.at=12", "events.2.at=12", "events.3.at=12", "events.4.at=12"));
  TrainRequest pasted;
  pasted.config_path = words[2];
  pasted.overrides = overrides;
  auto elsewhere = pasted;
  elsewhere.overrides.back() = "events.4.at=13";
  EXPECT_THAT(Place::carry_out(elsewhere).text, HasSubstr("events.4.at: 50% -> 13"));
  const auto outcome = Place::carry_out(pasted);
  ASSERT_EQ(outcome.code, ExitCode::done) << outcome.text;
  EXPECT_THAT(outcome.text, HasSubstr("resumed at step 24 of 40"));
  auto files = results(place.run(), 40), expected = longer_reference().files;
  files.erase("end"), expected.erase("end");  // the ends that were planned differ
  expect_same(files, expected);
}

TEST(Extension, MovesAPercentageThatHasNotFired) {
  std::string config = kConfig;
  for (auto at = config.find("at: 12"); at != config.npos; at = config.find("at: 12")) config.replace(at, 6, "at: 50%");
  const Place place(config), planned(config);
  ASSERT_EQ(place.train_until_poll(15).code, ExitCode::stopped);
  ASSERT_LT(place.status().at("step"), 12);
  ASSERT_EQ(place.train({"train.steps=40"}).code, ExitCode::done);
  ASSERT_EQ(planned.train({"train.steps=40"}).code, ExitCode::done);
  expect_same(results(place.run(), 40), results(planned.run(), 40));
}

// ---- ends other than done

TEST(TimeLimit, StopsAndResumes) {
  const Place place;
  auto request = place.request();
  request.host.max_hours = 1e-9;
  EXPECT_EQ(Place::carry_out(request).code, ExitCode::stopped);
  EXPECT_EQ(place.train().code, ExitCode::done);
  expect_same(results(place.run()), reference().files);
}

TEST(Divergence, KeepsTheParametersOfTheLastFiniteStepAndIsFinal) {
  const Place place;
  const std::vector<std::string> overrides{"train.lr=1e10", "run=tiny"};
  const auto outcome = place.train(overrides);
  ASSERT_EQ(outcome.code, ExitCode::diverged) << outcome.text;
  EXPECT_THAT(outcome.text, HasSubstr("train.lr"));
  EXPECT_EQ(place.status().at("state"), "diverged");
  EXPECT_TRUE(place.status().at("loss").is_null());
  EXPECT_FALSE(fs::exists(place.run() / "final.safetensors"));
  EXPECT_EQ(nlohmann::json::parse(slurp(place.run() / "meta.json")).at("sessions").back().at("result"), "diverged");

  const auto again = place.train(overrides);
  EXPECT_EQ(again.code, ExitCode::diverged);
  EXPECT_THAT(again.text, HasSubstr("diverged at step"));
  EXPECT_THAT(again.text, HasSubstr("--restart"));

  // the same by hand, to see the parameters: those of a run that was planned to end at its last finite step
  const std::int64_t finite_steps = place.status().at("step");
  ASSERT_GT(finite_steps, 0);
  const Place by_hand, shorter;
  auto config = load_config(by_hand.file(), overrides).config;
  make_directories(by_hand.run());
  Pack pack({&config, 1});
  std::vector<std::unique_ptr<mnemo::Run>> runs;
  runs.push_back(std::make_unique<mnemo::Run>(config, by_hand.run(), Host{}, pack, 0));
  auto& run = *runs[0];
  ::testing::internal::CaptureStderr();
  run.open({});
  EXPECT_TRUE(train(pack, runs)[0].error);
  EXPECT_EQ(run.step(), finite_steps);
  EXPECT_TRUE(run.model().parameters.flat_RP().isfinite().all().item<bool>());
  const auto path = by_hand.cache() / "weights.safetensors";
  write_weights(path, run.model(), {{"step", std::to_string(finite_steps)}});
  auto short_overrides = overrides;
  short_overrides.insert(short_overrides.end(), {"events=[]", fmt::format("train.steps={}", finite_steps)});
  ::testing::internal::GetCapturedStderr();
  ASSERT_EQ(shorter.train(short_overrides).code, ExitCode::done);
  EXPECT_EQ(slurp(path), slurp(shorter.run() / "final.safetensors"));
}

TEST(Failure, OnTheWayBackToACheckpointLeavesNoMoreStepsThanRows) {
  const test::TemporaryDirectory root;
  const std::vector<Column> columns{{"loss", Dtype::f64, {}}, {"step", Dtype::i64, {}}};
  const auto append = [](GrowingArrays& arrays, std::int64_t step) {
    const auto loss = static_cast<double>(step);
    arrays.append({view_of(&loss, {}), view_of(&step, {})});
  };
  FileMarks marks;
  GrowingArrays arrays(root.path(), "eval/train", columns);
  arrays.begin({});
  append(arrays, 1);
  arrays.mark(marks);
  for (const std::int64_t step : {2, 3}) append(arrays, step);
  const auto loss = root.path() / "eval/train/loss.npy";
  auto bytes = slurp(loss);
  bytes[128] ^= 1;  // of the first row: going back ends at this file, as a kill may end it anywhere
  test::spill(loss, bytes);
  GrowingArrays resumed(root.path(), "eval/train", columns);
  EXPECT_THROW(resumed.begin(marks), Error);
  EXPECT_EQ(read_npy(root.path() / "eval/train/step.npy", /*allow_excess=*/true).shape, Shape{1});
}

TEST(Failure, ShowsInTheStatus) {
  // the last file cannot be put in its place
  const Place place;
  make_directories(place.run() / "final.safetensors/in_the_way");
  const auto outcome = place.train();
  EXPECT_EQ(outcome.code, ExitCode::io);
  EXPECT_THAT(outcome.text, HasSubstr("final.safetensors"));
  EXPECT_EQ(place.status().at("state"), "failed");
  fs::remove_all(place.run() / "final.safetensors");
  EXPECT_EQ(place.train().code, ExitCode::done);
  expect_same(results(place.run()), reference().files);
}

// ---- damage

/// Stopped at two points after the switch, so that there are two checkpoints; lines and evaluations lie before and between them.
void stop_twice(const Place& place) {
  ASSERT_EQ(place.train_until_poll(39).code, ExitCode::stopped);
  ASSERT_EQ(place.train_until_poll(18).code, ExitCode::stopped);
}

std::vector<fs::path> checkpoints_of(const Place& place) {  // newest first
  std::vector<fs::path> paths;
  for (const auto& point : CheckpointStore(place.run() / "checkpoints", 2).points()) {
    paths.push_back(place.checkpoint(point.step, point.actions));
  }
  return paths;
}

void expect_falls_back(const Place& place) {
  const auto outcome = place.train();
  ASSERT_EQ(outcome.code, ExitCode::done) << outcome.text;
  EXPECT_THAT(outcome.text, HasSubstr("not usable"));
  EXPECT_THAT(outcome.text, HasSubstr("going on from the checkpoint before it"));
  expect_same(results(place.run()), reference().files);
}

TEST(Damage, NewestCheckpointCutAnywhereFallsBack) {
  for (const double share : {0.0, 0.001, 0.1, 0.5, 0.999}) {
    SCOPED_TRACE(share);
    const Place place;
    stop_twice(place);
    const auto newest = checkpoints_of(place).at(0);
    fs::resize_file(newest, static_cast<std::uintmax_t>(share * static_cast<double>(fs::file_size(newest))));
    expect_falls_back(place);
  }
}

TEST(Damage, NewestCheckpointFlippedFallsBack) {
  std::mt19937_64 random(1);
  for (int i = 0; i < 8; ++i) {
    const Place place;
    stop_twice(place);
    const auto newest = checkpoints_of(place).at(0);
    auto bytes = slurp(newest);
    const auto bit = random() % (8 * bytes.size());
    SCOPED_TRACE(fmt::format("bit {}", bit));
    bytes[bit / 8] = static_cast<char>(bytes[bit / 8] ^ (1 << bit % 8));
    spill(newest, bytes);
    expect_falls_back(place);
  }
}

TEST(Damage, CheckpointUnderAnotherNameFallsBack) {
  const Place place;
  stop_twice(place);
  const auto paths = checkpoints_of(place);
  fs::copy_file(paths.at(1), paths.at(0), fs::copy_options::overwrite_existing);
  expect_falls_back(place);
}

TEST(Damage, NoCheckpointLeftSaysHowToStartAnew) {
  const Place place;
  stop_twice(place);
  for (const auto& path : checkpoints_of(place)) fs::resize_file(path, 100);
  for (int attempt = 0; attempt < 2; ++attempt) {
    const auto outcome = place.train();
    EXPECT_EQ(outcome.code, ExitCode::data);
    EXPECT_THAT(outcome.text, HasSubstr("--restart"));
  }
  auto request = place.request();
  request.restart = true;
  EXPECT_EQ(Place::carry_out(request).code, ExitCode::done);
  expect_same(results(place.run()), reference().files);
}

TEST(Damage, CheckpointsThatAreMissingOrCannotBeListedAreNotNone) {
  const auto remove_all = [](const fs::path& folder) { fs::remove_all(folder); };
  const std::vector<std::pair<ExitCode, std::function<void(const fs::path&)>>> ways{
      {ExitCode::data, remove_all},
      {ExitCode::data, [&](const fs::path& folder) { remove_all(folder), fs::create_directory(folder); }},
      {ExitCode::io, [&](const fs::path& folder) { remove_all(folder), fs::create_symlink("nowhere", folder); }},
      {ExitCode::io, [&](const fs::path& folder) { remove_all(folder), spill(folder, "no folder"); }}};
  for (const auto& [code, lose] : ways) {
    const Place place;
    stop_twice(place);
    const auto folder = place.run() / "checkpoints", kept = place.cache() / "kept";
    const auto status = place.status();
    const auto metrics = place.metrics();
    fs::copy(folder, kept);
    lose(folder);
    for (int attempt = 0; attempt < 2; ++attempt) {
      const auto refused = place.train();
      EXPECT_EQ(refused.code, code) << refused.text;
      EXPECT_THAT(refused.text, HasSubstr(folder.string()));
      EXPECT_THAT(refused.text, HasSubstr("only --restart"));
    }
    EXPECT_EQ(place.status(), status);
    EXPECT_EQ(place.metrics(), metrics);
    fs::remove_all(folder);
    fs::rename(kept, folder);
    EXPECT_EQ(place.train().code, ExitCode::done);
    expect_same(results(place.run()), reference().files);
  }
}

TEST(Damage, AFinishedRunWithoutCheckpointsDoesNotGrow) {
  const Place place;
  ASSERT_EQ(place.train().code, ExitCode::done);
  const auto metrics = place.metrics();
  fs::remove_all(place.run() / "checkpoints");
  const auto refused = place.train({"train.steps=40"});
  EXPECT_EQ(refused.code, ExitCode::data);
  EXPECT_THAT(refused.text, HasSubstr("only --restart"));
  EXPECT_EQ(place.metrics(), metrics);
  EXPECT_THAT(place.train().text, HasSubstr("already done"));
}

TEST(Damage, ARunWithoutResultsNeedsNoCheckpoint) {
  const Place place;
  ASSERT_EQ(place.train_until_poll(1).code, ExitCode::stopped);
  fs::remove_all(place.run() / "checkpoints");
  const auto outcome = place.train();
  EXPECT_EQ(outcome.code, ExitCode::done) << outcome.text;
  expect_same(results(place.run()), reference().files);
}

TEST(Restart, MovesOnlyWhatHoldsARun) {
  const Place place;
  auto request = place.request();
  request.restart = true;
  make_directories(place.run());
  spill(place.run() / "LOCK", "");
  ASSERT_EQ(Place::carry_out(request).code, ExitCode::done);
  const auto old = place.run().parent_path() / ".old";
  EXPECT_FALSE(fs::exists(old));
  fs::remove(place.run() / "config.yaml");  // results without a name
  fs::remove(place.run() / "meta.json");
  ASSERT_EQ(Place::carry_out(request).code, ExitCode::done);
  EXPECT_TRUE(fs::exists(old / "tiny.1/metrics.jsonl"));
  expect_same(results(place.run()), reference().files);
}

TEST(Resume, StatusSaysTheStepFromTheFirstMoment) {
  const Place place;
  ASSERT_EQ(place.train_until_poll(40).code, ExitCode::stopped);
  const auto before = place.status();
  ASSERT_GT(before.at("step"), 0);
  nlohmann::json first;
  auto request = place.request();
  request.host.stop = [&] {
    if (first.is_null()) first = place.status();  // while data are prepared
    return false;
  };
  ASSERT_EQ(Place::carry_out(request).code, ExitCode::done);
  EXPECT_EQ(first.at("state"), "running");
  EXPECT_EQ(first.at("step"), before.at("step"));
  EXPECT_EQ(first.at("loss"), before.at("loss"));
}

TEST(Damage, OfAppendedFilesIsNeverPassedOver) {
  for (const char* name :
       {"metrics.jsonl", "eval/train/loss.npy", "eval/phase_0/presentations.npy", "eval/phase_1/step.npy", "eval/novel/accuracy.npy"}) {
    SCOPED_TRACE(name);
    const Place place;
    stop_twice(place);
    const auto path = place.run() / name;
    const auto whole = slurp(path);
    const auto before = [&](const fs::path& checkpoint) -> std::int64_t {
      const auto file = Safetensors::read(checkpoint);
      for (const auto& entry : nlohmann::json::parse(file.metadata().at("files"))) {
        if (entry.at("path") == name) return entry.at("size").get<std::int64_t>();
      }
      return 0;
    };
    const auto paths = checkpoints_of(place);
    const auto newest = before(paths.at(0)), oldest = before(paths.at(1));
    ASSERT_GT(newest, oldest);
    ASSERT_GT(oldest, 0);
    const auto flipped_at = [&](std::int64_t at) {
      auto bytes = whole;
      bytes[static_cast<std::size_t>(at)] = static_cast<char>(bytes[static_cast<std::size_t>(at)] ^ 1);
      return bytes;
    };
    // before every mark: nothing can be done
    for (const auto& damaged : {flipped_at(oldest - 1), whole.substr(0, static_cast<std::size_t>(oldest) - 1)}) {
      spill(path, damaged);
      const auto outcome = place.train();
      EXPECT_EQ(outcome.code, ExitCode::data) << outcome.text;
      EXPECT_THAT(outcome.text, HasSubstr(name));
    }
    fs::remove(path);
    EXPECT_EQ(place.train().code, ExitCode::data);
    // nothing was cut meanwhile: with the file back, both checkpoints can be used
    spill(path, whole);
    EXPECT_THAT(place.train_until_poll(1).text, Not(HasSubstr("not usable")));
    // between the marks: the older checkpoint knows nothing of it
    spill(path, flipped_at(newest - 1));
    expect_falls_back(place);
  }
}

TEST(Damage, ChangedOwnDataIsRefused) {
  const Place place;
  const auto data = place.cache().parent_path() / "bits.npy";
  std::vector<std::uint8_t> bits(12 * 6);
  for (std::size_t i = 0; i < bits.size(); ++i) bits[i] = i % 5 < 2;
  write_npy(data, view_of(bits.data(), {12, 6}));
  const std::vector<std::string> overrides{"data.file=" + data.string(), "run=tiny"};
  ASSERT_EQ(place.train_until_poll(40, overrides).code, ExitCode::stopped);
  bits[0] = static_cast<std::uint8_t>(1 - bits[0]);
  write_npy(data, view_of(bits.data(), {12, 6}));
  const auto refused = place.train(overrides);
  EXPECT_EQ(refused.code, ExitCode::config);
  EXPECT_THAT(refused.text, HasSubstr("bits.npy"));
  bits[0] = static_cast<std::uint8_t>(1 - bits[0]);
  write_npy(data, view_of(bits.data(), {12, 6}));
  EXPECT_EQ(place.train(overrides).code, ExitCode::done);
}

TEST(Lock, SecondProcessIsToldOfTheHolder) {
  const Place place;
  make_directories(place.run());
  std::optional<DirectoryLock> lock(place.run());
  const auto outcome = place.train();
  EXPECT_EQ(outcome.code, ExitCode::locked);
  EXPECT_THAT(outcome.text, HasSubstr(fmt::format("process {} on host", ::getpid())));
  EXPECT_FALSE(fs::exists(place.run() / "config.yaml"));
  lock.reset();
  EXPECT_EQ(place.train().code, ExitCode::done);
}

}  // namespace
}  // namespace mnemo
