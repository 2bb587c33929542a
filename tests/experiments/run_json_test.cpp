#include "experiments/directory/run_json.h"

#include "experiments/directory/run_reader.h"

#include "place.h"

#include <cmath>

namespace mnemo {
namespace {

using nlohmann::json;
using test::Place;
using test::slurp;
using test::spill;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

RunConfig config_of(const std::string& text) {
  const test::TemporaryDirectory folder;
  spill(folder / "f.yaml", text);
  return load_config(folder / "f.yaml", {}).config;
}

json json_of(const RunConfig& config) { return json::parse(run_json(config)); }

/// The settings alone: what run.json adds to them is taken out, and must be there.
json settings_of(json run) {
  EXPECT_EQ(run.erase("facts"), 1);
  for (auto& event : run["events"]) {
    EXPECT_EQ(event.erase("step") + event.erase("first"), 1);
    for (const char* key : {"last", "count", "parameters", "snapshot"}) event.erase(key);
  }
  return run;
}

TEST(RunJson, IsTheConfigurationSettingBySettingForEveryFileOfTheProject) {
  int count = 0;
  for (const auto& entry : fs::recursive_directory_iterator(fs::path(MNEMO_SOURCE_DIR) / "configs")) {
    if (entry.path().extension() != ".yaml") continue;
    SCOPED_TRACE(entry.path().string());
    const auto config = load_config(entry.path(), {"sweep={}"}).config;
    EXPECT_EQ(to_yaml(config_of(settings_of(json_of(config)).dump())), to_yaml(config));  // JSON is YAML, and the reader is strict
    EXPECT_EQ(run_json(config), run_json(config_of(to_yaml(config))));
    ++count;
  }
  EXPECT_GT(count, 20);
}

TEST(RunJson, TextStaysTextWhateverItLooksLike) {
  const auto config =
      config_of(R"({name: "1e5", run: "7", events: [{kind: snapshot, at: 1, name: "true"}, {kind: snapshot, at: end, name: "null"}]})");
  const auto run = json_of(config);
  EXPECT_EQ(run.at("name"), "1e5");
  EXPECT_EQ(run.at("run"), "7");
  EXPECT_EQ(run.at("events").at(0).at("name"), "true");
  EXPECT_EQ(run.at("events").at(1).at("name"), "null");
  EXPECT_EQ(run.at("events").at(1).at("at"), "end");
  EXPECT_EQ(to_yaml(config_of(settings_of(run).dump())), to_yaml(config));
}

TEST(RunJson, EventsHaveTheirStepsAndWhatTheyActOn) {
  const auto config = config_of(R"(
train: {steps: 10001}
model: {kind: one_layer_attention, heads: 1, head_dim: 4, mlp_layers: 2}
events:
  - {kind: snapshot, at: 50%, name: once}
  - {kind: snapshot, every: 300, name: often}
  - {kind: switch, every: 4000}
  - {kind: freeze, at: 0.57%, params: [mlp, "ln_f.*"]}
  - {kind: switch, at: 7, name: early}
  - {kind: fork_probe, at: end, freeze: [c_attn]}
  - {kind: load, at: end, from: once}
)");
  const auto run = json_of(config);
  const auto& events = run.at("events");
  EXPECT_EQ(events.at(0).at("step"), 5000);
  EXPECT_EQ(events.at(0).at("snapshot"), "once");
  EXPECT_EQ(events.at(1).at("first"), 300);
  EXPECT_EQ(events.at(1).at("last"), 9900);
  EXPECT_EQ(events.at(1).at("count"), 33);
  EXPECT_FALSE(events.at(1).contains("step"));
  EXPECT_EQ(fmt::format(fmt::runtime(events.at(1).at("snapshot").get<std::string>()), fmt::arg("step", 600)),
            std::get<SnapshotEvent>(config.events[1]).snapshot(600));
  EXPECT_EQ(events.at(2).at("count"), 2);
  EXPECT_EQ(events.at(3).at("step"), 57);
  EXPECT_THAT(events.at(3).at("parameters").get<std::vector<std::string>>(),
              ElementsAre("ln_f.weight", "ln_f.bias", "linear_modules.0.weight", "linear_modules.0.bias", "linear_modules.1.weight",
                          "linear_modules.1.bias"));
  EXPECT_EQ(events.at(5).at("step"), 10001);
  EXPECT_EQ(events.at(5).at("parameters"), json({"c_attn.weight", "c_attn.bias"}));
  EXPECT_EQ(events.at(6).at("parameters").size(), facts_of(config).parameters.size());
  EXPECT_EQ(run.at("facts").at("phases"), 4);
}

TEST(RunJson, FactsAreTheModels) {
  for (const char* objective : {"next_bit", "retrieval"}) {
    const auto config =
        config_of(fmt::format("{{seed: 3, data: {{num_sequences: 50, length: 8, seed: 5}}, model: {{kind: dam, heads: 2, "
                              "positions: from_0, objective: {}}}}}",
                              objective));
    const auto facts = json_of(config).at("facts");
    const auto expected = facts_of(config);
    const bool whole = expected.task == Task::sequences;
    EXPECT_EQ(facts.at("model").at("kind"), expected.kind);
    EXPECT_EQ(facts.at("model").at("text"), expected.text);
    EXPECT_EQ(facts.at("model").at("num_parameters"), expected.num_parameters());
    EXPECT_EQ(facts.at("model").at("groups"), json({{"A", {"A_logits"}}, {"B", {"B_logits"}}}));
    EXPECT_EQ(facts.at("model").at("first_position"), 0);
    EXPECT_EQ(facts.at("model").at("task"), whole ? "sequences" : "bits");
    EXPECT_EQ(facts.at("model").at("has_memory"), expected.has_memory);
    EXPECT_EQ(facts.at("chance").at("loss"), std::log(whole ? 50.0 : 2.0));
    EXPECT_EQ(facts.at("chance").at("accuracy"), whole ? 0.02 : 0.5);
    EXPECT_EQ(facts.at("seeds"), json({{"data", 5}, {"model", 3}}));
    EXPECT_EQ(facts.at("phases"), 1);
  }
}

constexpr const char* kTiny = R"(name: tiny
threads: 1
device: cpu
data:  {num_sequences: 12, length: 6}
model: {kind: one_layer_attention, heads: 1, head_dim: 4, mlp_layers: 1}
train: {steps: 6, batch_size: 4, lr: 1.0e-2, log_every: 3}
eval:  {every: 3, novel: 0}
events: [{kind: snapshot, at: end, name: last}]
)";

struct Tiny : Place {
  Tiny() : Place(kTiny) {}
  std::string json_text() const { return slurp(run() / "run.json"); }
  std::string of_stored_config() const { return run_json(stored_config(run())); }
};

TEST(RunJson, OfARunThatIsResumedOrExtendedIsRenewed) {
  const Tiny place;
  ASSERT_EQ(place.train_until_poll(12).code, ExitCode::stopped);
  EXPECT_EQ(place.json_text(), place.of_stored_config());
  fs::remove(place.run() / "run.json");  // an older version's
  ASSERT_EQ(place.train({"output.keep=3"}).code, ExitCode::done);
  EXPECT_EQ(place.json_text(), place.of_stored_config());
  EXPECT_THAT(place.json_text(), HasSubstr("\"keep\": 3"));
  ASSERT_EQ(place.train({"train.steps=9", "output.keep=3"}).code, ExitCode::done);
  EXPECT_EQ(place.json_text(), place.of_stored_config());
  EXPECT_EQ(json::parse(place.json_text()).at("events").at(0).at("step"), 9);
}

TEST(RunJson, OfARunThatIsOverIsCompletedAndNothingElseIs) {
  const Tiny place;
  ASSERT_EQ(place.train().code, ExitCode::done);
  const auto files = test::results(place.run(), 6);
  fs::remove(place.run() / "run.json");
  EXPECT_THAT(place.train({"output.keep=5"}).text, HasSubstr("already done"));
  test::expect_same(test::results(place.run(), 6), files);
}

}  // namespace
}  // namespace mnemo
