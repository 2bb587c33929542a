#include "core/config.h"

#include <unistd.h>

#include <bit>
#include <cmath>
#include <fstream>
#include <random>
#include <sstream>

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace mnemo {
namespace {

using namespace std::string_literals;
using ::testing::ElementsAre;
using ::testing::Pair;
using Lines = std::vector<std::string>;

struct When {  // 500 | 50% | end
  static constexpr std::string_view kTypeName = "a step, 50% or end";
  std::string spelling = "end";

  bool from_text(std::string_view text, std::string& problem) {
    const std::string_view number = text.ends_with('%') ? text.substr(0, text.size() - 1) : text;
    const bool is_number = !number.empty() && number.find_first_not_of("0123456789") == std::string_view::npos;
    if (number == "never") problem = "must come some day";
    if (!is_number && text != "end") return false;
    spelling = text;
    return true;
  }
  std::string to_text() const { return spelling; }
};

struct Train {
  std::int64_t steps = 20000;
  double lr = 1e-3;
  std::array<double, 2> betas{0.9, 0.999};
  double eps = 1e-8;
  bool amsgrad = false;

  template <class Self, class Visit>
  static void fields(Self& self, Visit&& visit) {
    visit("steps", self.steps, "optimizer updates", at_least(1));
    visit("lr", self.lr, "learning rate of Adam", positive());
    visit("betas", self.betas, "decay rates of Adam's moments", in_range(0, 1, /*include_high=*/false));
    visit("eps", self.eps, "added to the root", non_negative(), at_most(1));
    visit("amsgrad", self.amsgrad, "the variant of Adam");
  }
};

struct Init {
  double std_dev = 0.02;
  template <class Self, class Visit>
  static void fields(Self& self, Visit&& visit) {
    visit("std_dev", self.std_dev, "of the weights");
  }
};

struct Attention {
  static constexpr std::string_view kKind = "attention";
  std::int64_t heads = 4;
  Init init;
  template <class Self, class Visit>
  static void fields(Self& self, Visit&& visit) {
    visit("heads", self.heads, "number of heads", at_least(1));
    visit("init", self.init, "initial weights");
  }
};

struct Memory {
  static constexpr std::string_view kKind = "memory";
  std::int64_t patterns = 10;
  template <class Self, class Visit>
  static void fields(Self& self, Visit&& visit) {
    visit("patterns", self.patterns, "stored patterns", at_least(1));
  }
};

struct Switch {
  static constexpr std::string_view kKind = "switch";
  When at;
  bool reset = false;
  template <class Self, class Visit>
  static void fields(Self& self, Visit&& visit) {
    visit("at", self.at, "when");
    visit("reset", self.reset, "forget the moments");
  }
};

struct Freeze {
  static constexpr std::string_view kKind = "freeze";
  When at;
  std::vector<std::string> params;
  template <class Self, class Visit>
  static void fields(Self& self, Visit&& visit) {
    visit("at", self.at, "when");
    visit("params", self.params, "which weights", non_empty());
  }
};

struct Layer {
  int width = 8;
  std::vector<std::array<int, 2>> pairs;
  template <class Self, class Visit>
  static void fields(Self& self, Visit&& visit) {
    visit("width", self.width, "units", in_range(0, 64, true, /*include_low=*/false));
    visit("pairs", self.pairs, "connections");
  }
};

struct Example {
  std::string name = "run";
  std::uint32_t seed = 0;
  std::string backend = "torch";
  Train train;
  std::variant<Attention, Memory> model;
  std::vector<std::variant<Switch, Freeze>> events;
  std::vector<Layer> layers;
  std::optional<std::uint32_t> data_seed;
  std::optional<Init> init;
  std::vector<std::string> notes;

  template <class Self, class Visit>
  static void fields(Self& self, Visit&& visit) {
    visit("name", self.name, "of the folder", file_name());
    visit("seed", self.seed, "of everything");
    visit("backend", self.backend, "who computes", one_of({"torch", "numpy", "none"}));
    visit("train", self.train, "the optimizer");
    visit("model", self.model, "the network");
    visit("events", self.events, "what happens during training");
    visit("layers", self.layers, "of the readout");
    visit("data_seed", self.data_seed, "of the data", at_most(1e6));
    visit("init", self.init, "of the readout");
    visit("notes", self.notes, "for the reader");
  }
};

struct Numbers {
  std::vector<double> reals;
  std::vector<std::int64_t> integers;
  std::vector<std::string> texts;
  template <class Self, class Visit>
  static void fields(Self& self, Visit&& visit) {
    visit("reals", self.reals, "");
    visit("integers", self.integers, "");
    visit("texts", self.texts, "");
  }
};

struct Mistake {
  std::string name;
  template <class Self, class Visit>
  static void fields(Self& self, Visit&& visit) {
    visit("name", self.name, "a text", positive());
  }
};

template <class T = Example>
T read(const std::string& text, const Lines& overrides = {}) {
  ConfigSource source(text, "f.yaml");
  for (const std::string& assignment : overrides) source.override_with(assignment);
  T config = source.read<T>();
  source.throw_if_violated();
  return config;
}

/// The violations, one a line; empty if there are none.
template <class T = Example>
Lines violations(const std::string& text, const Lines& overrides = {}) {
  try {
    read<T>(text, overrides);
  } catch (const ConfigError& error) {
    EXPECT_EQ(error.code(), ExitCode::config);
    std::istringstream stream(error.what());
    Lines lines;
    for (std::string line; std::getline(stream, line);) lines.push_back(line);
    return lines;
  }
  return {};
}

template <class T>
void expect_round_trip(const T& config) {
  const std::string text = to_yaml(config);
  ASSERT_EQ(violations<T>(text), Lines()) << text;
  EXPECT_EQ(to_yaml(read<T>(text)), text);
}

constexpr std::string_view kFull = R"(# every kind of member
name: full
seed: 7
backend: numpy
train: {steps: 1e5, lr: 1.0e-4, betas: [0.8, 0.99], eps: 0, amsgrad: true}
model:
  heads: 2
  kind: attention
  init: {std_dev: -0.5}
events:
  - {at: 50%, kind: switch}
  - kind: freeze
    at: 500
    params: [c_attn, "a b"]
layers: [{width: 3, pairs: [[1, 2], [3, 4]]}, {}]
data_seed: 12
init: {std_dev: 1}
notes: ['it''s', "tab\t", 12, true]
)";

const char* const kFullResolved = R"(name: full
seed: 7
backend: numpy
train:
  steps: 100000
  lr: 0.0001
  betas: [0.8, 0.99]
  eps: 0
  amsgrad: true
model:
  kind: attention
  heads: 2
  init:
    std_dev: -0.5
events:
  - kind: switch
    at: 50%
    reset: false
  - kind: freeze
    at: 500
    params: [c_attn, "a b"]
layers:
  - width: 3
    pairs: [[1, 2], [3, 4]]
  - width: 8
    pairs: []
data_seed: 12
init:
  std_dev: 1
notes: ["it's", "tab\x09", "12", "true"]
)";

TEST(ConfigRead, EveryKindOfMember) {
  const Example example = read(std::string(kFull));
  EXPECT_EQ(example.name, "full");
  EXPECT_EQ(example.seed, 7u);
  EXPECT_EQ(example.backend, "numpy");
  EXPECT_EQ(example.train.steps, 100000);
  EXPECT_EQ(example.train.lr, 1e-4);
  EXPECT_THAT(example.train.betas, ElementsAre(0.8, 0.99));
  EXPECT_EQ(example.train.eps, 0);
  EXPECT_TRUE(example.train.amsgrad);
  EXPECT_EQ(std::get<Attention>(example.model).heads, 2);
  EXPECT_EQ(std::get<Attention>(example.model).init.std_dev, -0.5);
  ASSERT_EQ(example.events.size(), 2u);
  EXPECT_EQ(std::get<Switch>(example.events[0]).at.spelling, "50%");
  EXPECT_EQ(std::get<Freeze>(example.events[1]).at.spelling, "500");
  EXPECT_THAT(std::get<Freeze>(example.events[1]).params, ElementsAre("c_attn", "a b"));
  ASSERT_EQ(example.layers.size(), 2u);
  EXPECT_THAT(example.layers[0].pairs, ElementsAre(ElementsAre(1, 2), ElementsAre(3, 4)));
  EXPECT_EQ(example.layers[1].width, 8);
  EXPECT_EQ(example.data_seed, 12u);
  EXPECT_EQ(example.init.value().std_dev, 1);
  EXPECT_THAT(example.notes, ElementsAre("it's", "tab\t", "12", "true"));
}

TEST(ConfigRead, WhatIsLeftOutKeepsItsDefault) {
  EXPECT_EQ(to_yaml(read("{}")), to_yaml(Example()));
  EXPECT_EQ(std::get<Memory>(read("model: {kind: memory}").model).patterns, 10);
  EXPECT_EQ(std::get<Attention>(read("model: {heads: 7}").model).heads, 7);
  EXPECT_EQ(read("data_seed: null").data_seed, std::nullopt);
  EXPECT_EQ(read("init: {}").init.value().std_dev, 0.02);
}

TEST(ConfigRead, FormsOfNumbers) {
  const std::vector<std::pair<std::string, std::int64_t>> integers{
      {"0", 0},
      {"-0", 0},
      {"1e5", 100000},
      {"1.0e5", 100000},
      {"1.5e1", 15},
      {"0.5E+1", 5},
      {"100e-2", 1},
      {"2.0", 2},
      {"-1e3", -1000},
      {"0e99", 0},
      {"0.0e-9", 0},
      {"12", 12},
      {"9223372036854775807", INT64_MAX},
      {"-9223372036854775808", INT64_MIN},
  };
  for (const auto& [text, value] : integers) EXPECT_THAT(read<Numbers>("integers: [" + text + "]").integers, ElementsAre(value)) << text;
  const std::vector<std::pair<std::string, double>> reals{
      {"0", 0}, {"-0.0", -0.0}, {"1e-3", 1e-3}, {"1.0E+3", 1000}, {"5e-324", 5e-324}, {"1.7976931348623157e308", 1.7976931348623157e308},
  };
  for (const auto& [text, value] : reals) EXPECT_THAT(read<Numbers>("reals: [" + text + "]").reals, ElementsAre(value)) << text;
}

TEST(ConfigRead, FormsOfDocuments) {
  for (const std::string text : {"seed: 1 # why", "seed: 1\r\nname: b\r\n", "--- {seed: 1}", "---\nseed: 1\n...\n", "{seed: 1,}", "\"seed\": 1",
                                 "# \303\251 \360\237\230\200\nseed: 1", "seed : 1", "\n\nseed:\n  1\n"})
    EXPECT_EQ(read(text).seed, 1u) << text;
}

struct BadText {
  std::string text;
  Lines violations;
};

TEST(ConfigErrors, EachIsNamedAndPlaced) {
  const std::vector<BadText> table{
      // The root.
      {"\n", {"f.yaml:1:1: expected a map of settings, got nothing"}},
      {"# only a comment", {"f.yaml:1:1: expected a map of settings, got nothing"}},
      {"- a", {"f.yaml:1:1: expected a map of settings, got a list"}},
      {"just text", {"f.yaml:1:1: expected a map of settings, got 'just text'"}},
      {"null", {"f.yaml:1:1: expected a map of settings, got null"}},
      // Unknown keys.
      {"lrr: 1", {"f.yaml:1:1: lrr: unknown key 'lrr'"}},
      {"train: {learning_rate: 1}", {"f.yaml:1:9: train.learning_rate: unknown key 'learning_rate'; did you mean 'lr'?"}},
      {"train: {num_steps: 1}", {"f.yaml:1:9: train.num_steps: unknown key 'num_steps'; did you mean 'steps'?"}},
      {"train: {max_epochs: 1}", {"f.yaml:1:9: train.max_epochs: unknown key 'max_epochs'; did you mean 'steps'?"}},
      {"model: {n_heads: 1}", {"f.yaml:1:9: model.n_heads: unknown key 'n_heads' of kind attention; did you mean 'heads'?"}},
      {"learning_rate: 1", {"f.yaml:1:1: learning_rate: unknown key 'learning_rate'; did you mean train.lr?"}},
      {"num_heads: 1", {"f.yaml:1:1: num_heads: unknown key 'num_heads'; did you mean model.heads?"}},
      {"train: {amsgrad_init: 1}", {"f.yaml:1:9: train.amsgrad_init: unknown key 'amsgrad_init'; did you mean 'amsgrad'?"}},
      {"train: {learningRate: 1, LR: 2, step_size: 3}",
       {"f.yaml:1:9: train.learningRate: unknown key 'learningRate'; did you mean 'lr'?",
        "f.yaml:1:26: train.LR: unknown key 'LR'; did you mean 'lr'?", "f.yaml:1:33: train.step_size: unknown key 'step_size'"}},
      {"train: {type: adam}", {"f.yaml:1:9: train.type: unknown key 'type'"}},
      {"lr: 1", {"f.yaml:1:1: lr: unknown key 'lr'; it belongs under train"}},
      {"steps: 5", {"f.yaml:1:1: steps: unknown key 'steps'; it belongs under train"}},
      {"train: {lrr: 1}", {"f.yaml:1:9: train.lrr: unknown key 'lrr'; did you mean 'lr'?"}},
      {"train: {stpes: 5}", {"f.yaml:1:9: train.stpes: unknown key 'stpes'; did you mean 'steps'?"}},
      {"train: {patterns: 1}", {"f.yaml:1:9: train.patterns: unknown key 'patterns'; it belongs under model"}},
      {"train: {seed: 1}", {"f.yaml:1:9: train.seed: unknown key 'seed'; it belongs at the top level"}},
      {"trian: {lr: 1}", {"f.yaml:1:1: trian: unknown key 'trian'; did you mean 'train'?"}},
      {"train.lr: 1", {"f.yaml:1:1: train.lr: unknown key 'train.lr'; it belongs under train"}},
      {"model: {kind: memory, heads: 3}", {"f.yaml:1:23: model.heads: unknown key 'heads' of kind memory"}},
      // Kinds.
      {"model: {kind: memry}", {"f.yaml:1:15: model.kind: must be one of attention, memory; got 'memry'; did you mean 'memory'?"}},
      {"model: {kind: [memory]}", {"f.yaml:1:15: model.kind: expected text, got a list"}},
      {"model: {kind: null}", {"f.yaml:1:15: model.kind: expected text, got null"}},
      {"model: {kind: }", {"f.yaml:1:9: model.kind: has no value"}},
      {"model: {patterns: 3}", {"f.yaml:1:9: model.patterns: unknown key 'patterns' of kind attention"}},
      {"model: attention", {"f.yaml:1:8: model: expected a map, got 'attention'"}},
      {"events: [{at: 5}]", {"f.yaml:1:10: events.0: needs a kind, one of switch, freeze"}},
      {"events: [switch]", {"f.yaml:1:10: events.0: expected a map, got 'switch'"}},
      {"events: [{kind: swich, at: 5}]", {"f.yaml:1:17: events.0.kind: must be one of switch, freeze; got 'swich'; did you mean 'switch'?"}},
      {"events:\n  - kind: switch\n    at: 5\n    reste: true",
       {"f.yaml:4:5: events.0.reste: unknown key 'reste' of kind switch; did you mean 'reset'?"}},
      {"events: [{kind: switch, params: [a]}]", {"f.yaml:1:25: events.0.params: unknown key 'params' of kind switch"}},
      // Types.
      {"events: {kind: switch}", {"f.yaml:1:9: events: expected a list, got a map"}},
      {"events: 5", {"f.yaml:1:9: events: expected a list, got '5'"}},
      {"events: [{kind: switch, at: soon}]", {"f.yaml:1:29: events.0.at: expected a step, 50% or end, got 'soon'"}},
      {"events: [{kind: switch, at: never}]", {"f.yaml:1:29: events.0.at: must come some day"}},
      {"events: [{kind: switch, at: [5]}]", {"f.yaml:1:29: events.0.at: expected a step, 50% or end, got a list"}},
      {"events: [{kind: freeze, params: []}]", {"f.yaml:1:33: events.0.params: must be non-empty, got []"}},
      {"events: [{kind: freeze}]", {"f.yaml:1:10: events.0.params: must be non-empty, got nothing"}},
      {"events: [{kind: freeze, params: [a, [b]]}]", {"f.yaml:1:37: events.0.params.1: expected text, got a list"}},
      {"train: {steps: abc}", {"f.yaml:1:16: train.steps: expected an integer, got 'abc'"}},
      {"train: {steps: [1]}", {"f.yaml:1:16: train.steps: expected an integer, got a list"}},
      {"train: {steps: {a: 1}}", {"f.yaml:1:16: train.steps: expected an integer, got a map"}},
      {"train: {steps: \"5\"}", {"f.yaml:1:16: train.steps: expected an integer, got a quoted string"}},
      {"train: {steps: '5'}", {"f.yaml:1:16: train.steps: expected an integer, got a quoted string"}},
      // Missing values.
      {"train: {steps: null}", {"f.yaml:1:16: train.steps: expected an integer, got null"}},
      {"train: {steps: ~}", {"f.yaml:1:16: train.steps: expected an integer, got null"}},
      {"train:\n  steps:\n  lr: 1", {"f.yaml:2:3: train.steps: has no value"}},
      {"train:\n  steps:", {"f.yaml:2:3: train.steps: has no value"}},
      {"train: {steps: , lr: 1}", {"f.yaml:1:9: train.steps: has no value"}},
      {"train: {steps, lr: 1}", {"f.yaml:1:9: train.steps: has no value"}},
      {"train:", {"f.yaml:1:1: train: has no value"}},
      {"train: null", {"f.yaml:1:8: train: expected a map, got null"}},
      // Numbers.
      {"train: {steps: 010}", {"f.yaml:1:16: train.steps: expected an integer, got '010'; write 10"}},
      {"train: {steps: -01}", {"f.yaml:1:16: train.steps: expected an integer, got '-01'; write -1"}},
      {"train: {lr: 00.5}", {"f.yaml:1:13: train.lr: expected a number, got '00.5'; write 0.5"}},
      {"train: {steps: +1}", {"f.yaml:1:16: train.steps: expected an integer, got '+1'; write 1"}},
      {"train: {steps: 0x10}", {"f.yaml:1:16: train.steps: expected an integer, got '0x10'"}},
      {"train: {steps: 0o17}", {"f.yaml:1:16: train.steps: expected an integer, got '0o17'"}},
      {"train: {steps: 1_000}", {"f.yaml:1:16: train.steps: expected an integer, got '1_000'; write 1000"}},
      {"train: {steps: 1.5e0}", {"f.yaml:1:16: train.steps: expected an integer, got '1.5e0'"}},
      {"train: {steps: 15e-1}", {"f.yaml:1:16: train.steps: expected an integer, got '15e-1'"}},
      {"train: {steps: 1.}", {"f.yaml:1:16: train.steps: expected an integer, got '1.'; write 1"}},
      {"train: {steps: .5}", {"f.yaml:1:16: train.steps: expected an integer, got '.5'"}},
      {"train: {lr: .001}", {"f.yaml:1:13: train.lr: expected a number, got '.001'; write 0.001"}},
      {"train: {lr: +1e-3}", {"f.yaml:1:13: train.lr: expected a number, got '+1e-3'; write 1e-3"}},
      {"train: {lr: -.5e1}", {"f.yaml:1:13: train.lr: expected a number, got '-.5e1'; write -0.5e1"}},
      {"train: {lr: +1_0.e-3}", {"f.yaml:1:13: train.lr: expected a number, got '+1_0.e-3'; write 10e-3"}},
      {"train: {lr: \u22121e-3}", {"f.yaml:1:13: train.lr: expected a number, got '\u22121e-3'; write -1e-3"}},
      {"train: {lr: 1e\u22123}", {"f.yaml:1:13: train.lr: expected a number, got '1e\u22123'; write 1e-3"}},
      {"train: {lr: '.5'}", {"f.yaml:1:13: train.lr: expected a number, got a quoted string"}},
      {"train: {steps: 1e30}", {"f.yaml:1:16: train.steps: must fit into 64 bits, got 1e30"}},
      {"train: {steps: 1e99999999999999999999}", {"f.yaml:1:16: train.steps: must fit into 64 bits, got 1e99999999999999999999"}},
      {"seed: 1" + std::string(99, '0'), {"f.yaml:1:7: seed: must be in [0, 4294967295], got 1" + std::string(59, '0') + "..."}},
      {"train: {steps: 0}", {"f.yaml:1:16: train.steps: must be at least 1, got 0"}},
      {"train: {lr: 0}", {"f.yaml:1:13: train.lr: must be > 0, got 0"}},
      {"train: {lr: -1}", {"f.yaml:1:13: train.lr: must be > 0, got -1"}},
      {"train: {lr: .nan}", {"f.yaml:1:13: train.lr: expected a number, got '.nan'"}},
      {"train: {lr: .inf}", {"f.yaml:1:13: train.lr: expected a number, got '.inf'"}},
      {"train: {lr: 1e400}", {"f.yaml:1:13: train.lr: must fit into a double, got 1e400"}},
      {"train: {lr: 1e-400}", {"f.yaml:1:13: train.lr: must fit into a double, got 1e-400"}},
      {"train: {lr: .5}", {"f.yaml:1:13: train.lr: expected a number, got '.5'; write 0.5"}},
      {"train: {lr: 5.}", {"f.yaml:1:13: train.lr: expected a number, got '5.'; write 5"}},
      {"train: {lr: 1,5}", {"f.yaml:1:15: train.5: unknown key '5'"}},
      {"train: {lr: 1e}", {"f.yaml:1:13: train.lr: expected a number, got '1e'"}},
      {"train: {lr: [0.1]}", {"f.yaml:1:13: train.lr: expected a number, got a list"}},
      {"train: {lr: \"0.1\"}", {"f.yaml:1:13: train.lr: expected a number, got a quoted string"}},
      // Rules and ranges.
      {"train: {eps: 2}", {"f.yaml:1:14: train.eps: must be at most 1, got 2"}},
      {"train: {eps: -1}", {"f.yaml:1:14: train.eps: must be >= 0, got -1"}},
      {"train: {betas: [0.9, 1]}", {"f.yaml:1:22: train.betas.1: must be in [0, 1), got 1"}},
      {"train: {betas: [0.9]}", {"f.yaml:1:16: train.betas: expected a list of 2 values, got 1"}},
      {"train: {betas: [0.9, 0.99, 0.999]}", {"f.yaml:1:16: train.betas: expected a list of 2 values, got 3"}},
      {"train: {betas: 0.9}", {"f.yaml:1:16: train.betas: expected a list, got '0.9'"}},
      {"train: {betas: [0.9, ]}", {"f.yaml:1:16: train.betas: expected a list of 2 values, got 1"}},
      {"train: {betas: [0.9, x]}", {"f.yaml:1:22: train.betas.1: expected a number, got 'x'"}},
      {"train: {betas: [, 0.9]}", {"f.yaml:1:17: train.betas.0: has no value"}},
      // Truth values.
      {"train: {amsgrad: yes}", {"f.yaml:1:18: train.amsgrad: expected true or false, got 'yes'"}},
      {"train: {amsgrad: True}", {"f.yaml:1:18: train.amsgrad: expected true or false, got 'True'"}},
      {"train: {amsgrad: 1}", {"f.yaml:1:18: train.amsgrad: expected true or false, got '1'"}},
      {"train: {amsgrad: \"true\"}", {"f.yaml:1:18: train.amsgrad: expected true or false, got a quoted string"}},
      {"seed: -1", {"f.yaml:1:7: seed: must be in [0, 4294967295], got -1"}},
      {"seed: 4294967296", {"f.yaml:1:7: seed: must be in [0, 4294967295], got 4294967296"}},
      {"seed: 1.5", {"f.yaml:1:7: seed: expected an integer, got '1.5'"}},
      {"data_seed: 2e6", {"f.yaml:1:12: data_seed: must be at most 1000000, got 2e6"}},
      {"data_seed: x", {"f.yaml:1:12: data_seed: expected an integer, got 'x'"}},
      {"layers: [{width: 0}]", {"f.yaml:1:18: layers.0.width: must be in (0, 64], got 0"}},
      {"layers: [{width: 65}]", {"f.yaml:1:18: layers.0.width: must be in (0, 64], got 65"}},
      {"layers: [{width: 3000000000}]", {"f.yaml:1:18: layers.0.width: must be in [-2147483648, 2147483647], got 3000000000"}},
      {"layers: [{pairs: [[1, 2], [3]]}]", {"f.yaml:1:27: layers.0.pairs.1: expected a list of 2 values, got 1"}},
      {"init: {std_dev: x}", {"f.yaml:1:17: init.std_dev: expected a number, got 'x'"}},
      // Texts.
      {"backend: tourch", {"f.yaml:1:10: backend: must be one of torch, numpy, none; got 'tourch'; did you mean 'torch'?"}},
      {"backend: jax", {"f.yaml:1:10: backend: must be one of torch, numpy, none; got 'jax'"}},
      {"backend: null", {"f.yaml:1:10: backend: expected text, got null"}},
      {"backend: [torch]", {"f.yaml:1:10: backend: expected text, got a list"}},
      {"name: .hidden",
       {"f.yaml:1:7: name: must be a file name (letters, digits, '.', '_', '-'; no dot first; at most 100), got "
        "'.hidden'"}},
      {"name:", {"f.yaml:1:1: name: has no value"}},
      {"name: \"a\\0b\"", {"f.yaml:1:7: name: contains a NUL character"}},
      {"notes: [a, null, {b: c}]", {"f.yaml:1:12: notes.1: expected text, got null", "f.yaml:1:18: notes.2: expected text, got a map"}},
      // Duplicate keys.
      {"seed: 1\nname: a\nseed: 2", {"f.yaml:3:1: seed: duplicate key, first on line 1"}},
      {"train: {lr: 1, steps: 3, lr: 2}", {"f.yaml:1:26: train.lr: duplicate key, first on line 1"}},
      {"\"seed\": 1\nseed: 2", {"f.yaml:2:1: seed: duplicate key, first on line 1"}},
      {"events: [{kind: switch, kind: freeze}]", {"f.yaml:1:25: events.0.kind: duplicate key, first on line 1"}},
      // What YAML has and a configuration has no use for.
      {"seed: &a 1", {"f.yaml:1:7: seed: anchors are not supported"}},
      {"train: &a {lr: 1}", {"f.yaml:1:8: train: anchors are not supported"}},
      {"seed: &a 1\ndata_seed: *a", {"f.yaml:1:7: seed: anchors are not supported", "f.yaml:2:12: data_seed: aliases are not supported"}},
      {"seed: *a", {"f.yaml:1:7: aliases are not supported"}},
      {"&a seed: 1", {"f.yaml:1:1: anchors are not supported"}},
      {"seed: !!int 1", {"f.yaml:1:7: seed: tags are not supported"}},
      {"seed: !foo 1", {"f.yaml:1:7: seed: tags are not supported"}},
      {"seed: ! 1", {"f.yaml:1:7: seed: tags are not supported"}},
      {"name: ! \"a\"", {"f.yaml:1:7: name: tags are not supported"}},
      {"seed: !<> 1", {"f.yaml:1:7: seed: tags are not supported"}},
      {"seed: !<tag:yaml.org,2002:int> 1", {"f.yaml:1:7: seed: tags are not supported"}},
      {"train: !!map {lr: 1}", {"f.yaml:1:8: train: tags are not supported"}},
      {"train: !foo\n  lr: 1", {"f.yaml:1:8: train: tags are not supported"}},
      {"!foo seed: 1", {"f.yaml:1:1: tags are not supported"}},
      {"!!map\nseed: 1", {"f.yaml:1:1: tags are not supported"}},
      {"seed: !!int", {"f.yaml:1:7: seed: tags are not supported"}},
      {"train:\n  <<: {lr: 1}", {"f.yaml:2:3: train: merge keys are not supported"}},
      {"<<: *a", {"f.yaml:1:5: aliases are not supported"}},
      {"seed: 1\n---\nseed: 2", {"f.yaml:2:1: a second document"}},
      {"seed: 1\n---", {"f.yaml:2:1: a second document"}},
      {"seed: 1\n...\nseed: 2", {"f.yaml:3:1: unexpected text after the value"}},
      {"%YAML 1.2\n---\nseed: 1", {"f.yaml:1:1: directives are not supported"}},
      {"seed: 1\n%FOO bar", {"f.yaml:2:1: directives are not supported"}},
      {"[1] 2", {"f.yaml:1:5: unexpected text after the value"}},
      {"{seed: 1} {seed: 2}", {"f.yaml:1:11: unexpected text after the value"}},
      // Keys.
      {"? [a]\n: 1", {"f.yaml:1:3: expected a key, got a list"}},
      {"? {a: 1}\n: 1", {"f.yaml:1:3: expected a key, got a map"}},
      {"[a, b]: 1", {"f.yaml:1:1: expected a key, got a list"}},
      {"~: 1", {"f.yaml:1:1: expected a key, got null"}},
      {": 1", {"f.yaml:1:1: expected a key, got nothing"}},
      {"? seed", {"f.yaml:1:3: seed: has no value"}},
      {"'': 1", {"f.yaml:1:1: unknown key ''"}},
      // Bytes.
      {"seed: 1\000"s, {"f.yaml:1:8: control character 0x00"}},
      {"seed: 1\n# \004", {"f.yaml:2:3: control character 0x04"}},
      {"seed: 1\rname: a", {"f.yaml:1:8: control character 0x0d"}},
      {"# \377", {"f.yaml:1:3: not UTF-8"}},
      {"# \300\200", {"f.yaml:1:3: not UTF-8"}},
      {"# \340\200\200", {"f.yaml:1:3: not UTF-8"}},
      {"# \355\240\200", {"f.yaml:1:3: not UTF-8"}},
      {"# \364\220\200\200", {"f.yaml:1:3: not UTF-8"}},
      {"# \360\217\277\277", {"f.yaml:1:3: not UTF-8"}},
      {"# \342\202", {"f.yaml:1:3: not UTF-8"}},
      {"# \303\251\377", {"f.yaml:1:4: not UTF-8"}},
      {"{notes: [\303\251], sede: 1}", {"f.yaml:1:14: sede: unknown key 'sede'; did you mean 'seed'?"}},
      {"\357\273\277seed: 1", {"f.yaml:1:1: starts with a byte order mark"}},
      {"\377\376s\000"s, {"f.yaml:1:1: not UTF-8"}},
      {"train:\n\u00a0 lr: 1", {"f.yaml:2:1: U+00A0, a no-break space, may stand in quotes and comments only"}},
      {"train: {lr: 1e-3\u00a0}", {"f.yaml:1:17: U+00A0, a no-break space, may stand in quotes and comments only"}},
      {"seed: 1\u200b\n", {"f.yaml:1:8: U+200B, a zero-width space, may stand in quotes and comments only"}},
      {"name: a\u2028seed: 1", {"f.yaml:1:8: U+2028, a line separator, may stand in quotes and comments only"}},
      {"name: a\u0085seed: 1", {"f.yaml:1:8: U+0085, a next-line character, may stand in quotes and comments only"}},
      {"# \u00a0\u2028\nname: \"\u00e9\u00a0\" # \u200b\nnotes: ['\u00a0', \"\u3000\\\"\u200b\"]",
       {"f.yaml:2:7: name: must be a file name (letters, digits, '.', '_', '-'; no dot first; at most 100), got "
        "'\u00e9\\u00a0'"}},
      {"train:\n\tlr: 1", {"f.yaml:2:1: a tab in the indentation"}},
      {"train: {\n\tlr: 1}", {"f.yaml:2:1: a tab in the indentation"}},
      // What is no YAML.
      {"train: {lr: 1", {"f.yaml:1:14: not valid YAML: end of map flow not found"}},
      {"seed: [1, 2", {"f.yaml:1:12: not valid YAML: end of sequence flow not found"}},
      {"seed: \"abc", {"f.yaml:1:7: a quote that is not closed in its line"}},
      {"seed: 'abc\n", {"f.yaml:1:7: a quote that is not closed in its line"}},
      {"notes: [a, 'b]\nseed: 1\n", {"f.yaml:1:12: a quote that is not closed in its line"}},
      {"seed: 1\nname: \"abc # why\ntrain: {lr: 1}\n", {"f.yaml:2:7: a quote that is not closed in its line"}},
      {"name: 'abc\nbackend: 'torch'\n", {"f.yaml:1:7: a quote that is not closed in its line"}},
      {"name: \"abc\n  d\"\n", {"f.yaml:1:7: a quote that is not closed in its line"}},
      {"\"seed: 1\n", {"f.yaml:1:1: a quote that is not closed in its line"}},
      {"notes: [it's, 'it''s', \"\\\"\", a'b]\nseed: x", {"f.yaml:2:7: seed: expected an integer, got 'x'"}},
      {"# 'tis \"\nseed: x # \"", {"f.yaml:2:7: seed: expected an integer, got 'x'"}},
      {"seed: }", {"f.yaml:1:7: not valid YAML: illegal flow end"}},
      {"train: {lr: 1 steps: 2}", {"f.yaml:1:20: not valid YAML: end of map flow not found"}},
      {"seed: 1\n name: a", {"f.yaml:2:6: not valid YAML: illegal map value"}},
      {"seed: 1\n- b", {"f.yaml:2:1: not valid YAML: end of map not found"}},
      {"name: @a", {"f.yaml:1:7: not valid YAML: unknown token"}},
      {"name: %a", {"f.yaml:1:7: not valid YAML: unknown token"}},
      {"name: \"\\q\"", {"f.yaml:1:10: not valid YAML: unknown escape character: q"}},
      {"name: \"\\ud800\"", {"f.yaml:1:14: not valid YAML: invalid unicode: 55296"}},
      // Everything at once, in the order of the text.
      {"seed: x\ntrain: {lr: -1, stps: 3}\nmodel: {kind: memory, patterns: 0}\nevents:\n  - {kind: switch, at: x}\n  - "
       "{at: 5}",
       {"f.yaml:1:7: seed: expected an integer, got 'x'", "f.yaml:2:13: train.lr: must be > 0, got -1",
        "f.yaml:2:17: train.stps: unknown key 'stps'; did you mean 'steps'?", "f.yaml:3:33: model.patterns: must be at least 1, got 0",
        "f.yaml:5:24: events.0.at: expected a step, 50% or end, got 'x'", "f.yaml:6:5: events.1: needs a kind, one of switch, freeze"}},
      {"[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]", {"f.yaml:1:17: deeper than 16 levels"}},
      {"\"a\\tb\": 1", {"f.yaml:1:1: a\\x09b: unknown key 'a\\x09b'"}},
      {"data_seed:", {"f.yaml:1:1: data_seed: has no value"}},
      {"data_seed:\nnull: 3", {"f.yaml:2:1: expected a key, got null"}},
      {"data_seed:\nnullable: 3", {"f.yaml:1:1: data_seed: has no value", "f.yaml:2:1: nullable: unknown key 'nullable'"}},
      {"notes: [|\n x]", {"f.yaml:1:9: not valid YAML: unknown token"}},
  };
  for (const BadText& bad : table) EXPECT_EQ(violations(bad.text), bad.violations) << bad.text;
}

struct BadOverride {
  std::string text;
  Lines overrides;
  Lines violations;
};

TEST(ConfigErrors, InOverrides) {
  const std::vector<BadOverride> table{
      {"seed: 1", {"seed=x"}, {"<seed=x>:1:6: seed: expected an integer, got 'x'"}},
      {"seed: 1", {"train.lr=abc"}, {"<train.lr=abc>:1:10: train.lr: expected a number, got 'abc'"}},
      {"seed: 1", {"train.lr=1e-3\u00a0"}, {"<train.lr=1e-3\\u00a0>:1:14: U+00A0, a no-break space, may stand in quotes and comments only"}},
      {"seed: 1", {"name='a"}, {"<name='a>:1:6: a quote that is not closed in its line"}},
      {"train: {steps: 7, lrr: 2}",
       {"train={lr: 0, lrr: 1}"},
       {"<train={lr: 0, lrr: 1}>:1:12: train.lr: must be > 0, got 0",
        "<train={lr: 0, lrr: 1}>:1:15: train.lrr: unknown key 'lrr'; did you mean 'lr'?"}},
      {"seed: 1", {"train.lrr=1"}, {"<train.lrr=1>:1:7: train.lrr: unknown key 'lrr'; did you mean 'lr'?"}},
      {"seed: 1", {"trian.lr=1"}, {"<trian.lr=1>:1:1: trian: unknown key 'trian'; did you mean 'train'?"}},
      {"seed: 1", {"train.lr=0"}, {"<train.lr=0>:1:10: train.lr: must be > 0, got 0"}},
      {"seed: 1", {"events=[{kind: switch}]", "events.1.at=7"}, {"<events.1.at=7>:1:8: events: has no entry '1', the list has 1"}},
      {"seed: 1", {"events=[{kind: switch}]", "events.00.at=7"}, {"<events.00.at=7>:1:8: events: has no entry '00', the list has 1"}},
      {"seed: 1", {"events=[{kind: switch}]", "events.x=7"}, {"<events.x=7>:1:8: events: has no entry 'x', the list has 1"}},
      {"seed: 1", {"events.0.at=5"}, {"<events.0.at=5>:1:8: events: is no list in the text so far; give it whole"}},
      {"seed: 1", {"train.betas.1=0.5"}, {"<train.betas.1=0.5>:1:13: train.betas: is no list in the text so far; give it whole"}},
      {"train: {betas: [0.1, 0.2]}", {"train.betas.2=0.5"}, {"<train.betas.2=0.5>:1:13: train.betas: has no entry '2', the list has 2"}},
      {"seed: 1", {"seed.x=5"}, {"<seed.x=5>:1:6: seed: is a single value, without keys"}},
      {"seed: 1", {"name=a: b"}, {"<name=a: b>:1:6: expected one value, [a, b] or {key: value}"}},
      {"seed: 1", {"name=- b"}, {"<name=- b>:1:6: expected one value, [a, b] or {key: value}"}},
      {"seed: 1", {"name=[1"}, {"<name=[1>:1:6: expected one value, [a, b] or {key: value}"}},
      {"seed: 1", {"name=[1] 2"}, {"<name=[1] 2>:1:10: unexpected text after the value"}},
      {"seed: 1", {"name="}, {"<name=>:1:6: name: has no value"}},
      {"seed: 1", {"name=# c"}, {"<name=# c>:1:6: name: has no value"}},
      {"seed: 1", {"name"}, {"<name>:1:1: expected key.path=value"}},
      {"seed: 1", {"=5"}, {"<=5>:1:1: expected key.path=value"}},
      {"seed: 1", {"a..b=5"}, {"<a..b=5>:1:1: expected key.path=value"}},
      {"seed: 1", {".a=5"}, {"<.a=5>:1:1: expected key.path=value"}},
      {"seed: 1", {"a.=5"}, {"<a.=5>:1:1: expected key.path=value"}},
      {"seed: 1",
       {"name=\"a b\""},
       {"<name=\"a b\">:1:6: name: must be a file name (letters, digits, '.', '_', '-'; no dot first; at most 100), "
        "got 'a b'"}},
      {"seed: 1", {"notes=!foo [a]"}, {"<notes=!foo [a]>:1:7: notes: tags are not supported"}},
      {"seed: 1", {"seed=&a 5"}, {"<seed=&a 5>:1:6: seed: anchors are not supported"}},
      {"seed: 1", {"seed=*a"}, {"<seed=*a>:1:6: aliases are not supported"}},
      {"seed: 1", {"name=%a"}, {"<name=%a>:1:6: directives are not supported"}},
      {"seed: 1", {"train={lr: 1, lr: 2}"}, {"<train={lr: 1, lr: 2}>:1:15: train.lr: duplicate key, first on line 1"}},
      {"seed: 1", {"train={lr: 1, stps: 2}"}, {"<train={lr: 1, stps: 2}>:1:15: train.stps: unknown key 'stps'; did you mean 'steps'?"}},
      {"seed: 1", {"train=null"}, {"<train=null>:1:7: train: expected a map, got null"}},
      {"# nothing", {"seed=1"}, {"f.yaml:1:1: expected a map of settings, got nothing"}},
      {"model: {heads: 3}", {"model.kind=memory"}, {"f.yaml:1:9: model.heads: unknown key 'heads' of kind memory"}},
      {"seed: 1", {"seed=1\001"}, {"<seed=1\\x01>:1:7: control character 0x01"}},
      {"seed: 1", {"seed=\377"}, {"<seed=\377>:1:6: not UTF-8"}},
      {"seed: 1", {"notes=[\303\251, [a]]"}, {"<notes=[\303\251, [a]]>:1:11: notes.1: expected text, got a list"}},
      {"seed: 1", {"se\nx=1"}, {"<se\\nx=1>:1:1: se\\nx: unknown key 'se\\nx'"}},
      {"seed: &a 1", {"seed.x=1"}, {"f.yaml:1:7: seed: anchors are not supported"}},
      {"seed: *a", {"seed=1"}, {"f.yaml:1:7: aliases are not supported"}},
      {"seed: 1",
       {"train={lr: {a: {a: {a: {a: {a: {a: {a: {a: {a: {a: {a: {a: {a: {a: {a: {a: 1}}}}}}}}}}}}}}}}}"},
       {"<train={lr: {a: {a: {a: {a: {a: {a: {a: {a: {a: {a: {a: {a: {a: {a: {a: {a: 1}}}}}}}}}}}}}}}}}>:1:72: deeper "
        "than 16 levels"}},
      {"seed: 1", {"seed=|\n 5"}, {"<seed=|\\n 5>:1:6: seed: expected an integer, got a quoted string"}},
      {"seed: 1", {"train.lr = 1"}, {"<train.lr = 1>:1:7: train.lr : unknown key 'lr '; did you mean 'lr'?"}},
  };
  for (const BadOverride& bad : table) EXPECT_EQ(violations(bad.text, bad.overrides), bad.violations) << ::testing::PrintToString(bad.overrides);
}

TEST(ConfigErrors, FilesThatCannotBeRead) {
  const std::filesystem::path folder = std::filesystem::path(::testing::TempDir()) / fmt::format("mnemo_config_test_{}", ::getpid());
  std::filesystem::create_directories(folder);
  const auto what = [](const std::filesystem::path& path) -> std::string {
    try {
      return fmt::format("seed {}", ConfigSource::from_file(path).read<Example>().seed);
    } catch (const ConfigError& error) {
      return error.what();
    }
  };
  const std::filesystem::path file = folder / "run.yaml";
  std::ofstream(file) << "seed: 5" << std::string((1 << 20) - 7, '\n');
  EXPECT_EQ(what(file), "seed 5");
  std::ofstream(file, std::ios::app) << '\n';
  EXPECT_EQ(what(file), file.string() + ":1:1: larger than 1 MiB");
  EXPECT_EQ(what("/dev/zero"), "/dev/zero:1:1: larger than 1 MiB");
  EXPECT_EQ(what(folder / "none.yaml"), (folder / "none.yaml").string() + ": No such file or directory");
  EXPECT_EQ(what(folder), folder.string() + ": Is a directory");
  std::filesystem::remove_all(folder);
}

TEST(ConfigErrors, AHundredAreEnough) {
  std::string text;
  for (int i = 0; i < 120; ++i) text += fmt::format("key_{}: 1\n", i);
  const Lines lines = violations(text);
  ASSERT_EQ(lines.size(), 101u);
  EXPECT_EQ(lines[99], "f.yaml:100:1: key_99: unknown key 'key_99'");
  EXPECT_EQ(lines[100], "... and 20 more");
}

TEST(ConfigErrors, AMillionBracketsEndQuickly) {
  for (const std::string unit : {"[", "{", "- ", "? "}) {
    std::string text;
    while (text.size() + unit.size() <= 1 << 20) text += unit;
    EXPECT_FALSE(violations(text).empty()) << unit;
  }
}

TEST(ConfigOverrides, ReplaceAndAdd) {
  const auto with = [](const std::string& text, const Lines& overrides) { return read(text, overrides); };
  EXPECT_EQ(with("seed: 1", {"seed=2"}).seed, 2u);
  EXPECT_EQ(with("seed: x", {"seed=2"}).seed, 2u);
  EXPECT_EQ(with("seed: 1", {"train.lr= 1e-5"}).train.lr, 1e-5);
  EXPECT_EQ(with("seed: 1", {"train.lr=0", "train.lr=0.5"}).train.lr, 0.5);
  EXPECT_EQ(with("train:", {"train.lr=0.5"}).train.lr, 0.5);
  EXPECT_EQ(with("train: {lr: 2, lrr: 1}", {"train={}"}).train.lr, 1e-3);
  EXPECT_EQ(with("seed: 1", {"init.std_dev=3"}).init.value().std_dev, 3);
  EXPECT_EQ(with("data_seed: 3", {"data_seed=null"}).data_seed, std::nullopt);
  EXPECT_THAT(with("train: {betas: [0.1, 0.2]}", {"train.betas.1=0.5"}).train.betas, ElementsAre(0.1, 0.5));
  EXPECT_THAT(with("seed: 1", {"notes=[a=b, \"c, d\"]"}).notes, ElementsAre("a=b", "c, d"));
  EXPECT_EQ(std::get<Memory>(with("seed: 1", {"model.kind=memory", "model.patterns=5"}).model).patterns, 5);
}

TEST(ConfigOverrides, MapsMerge) {
  const std::string text = "{train: {steps: 7, lr: 2, betas: [0.1, 0.2]}, model: {kind: attention, heads: 3, init: {std_dev: 5}}}";
  const Example merged = read(text, {"train={lr: 0.5, betas: [0.3, 0.4]}", "model={init: {std_dev: 6}}"});
  EXPECT_EQ(merged.train.steps, 7);
  EXPECT_EQ(merged.train.lr, 0.5);
  EXPECT_THAT(merged.train.betas, ElementsAre(0.3, 0.4));
  EXPECT_EQ(std::get<Attention>(merged.model).heads, 3);
  EXPECT_EQ(std::get<Attention>(merged.model).init.std_dev, 6);
  EXPECT_EQ(std::get<Attention>(read(text, {"model={kind: attention, heads: 4}"}).model).init.std_dev, 5);
  EXPECT_EQ(std::get<Memory>(read(text, {"model={kind: memory}"}).model).patterns, 10);  // keys of another kind go
  EXPECT_EQ(read(text, {"train={}"}).train.steps, 20000);
  EXPECT_EQ(read("init: null", {"init={std_dev: 1}"}).init.value().std_dev, 1);

  ConfigSource source(text, "f.yaml");
  EXPECT_THAT(source.override_with("train={lr: 1, betas: [0, 0]}"), ElementsAre("train.lr", "train.betas"));
  EXPECT_THAT(source.override_with("train={}"), ElementsAre("train"));
  EXPECT_THAT(source.override_with("train.lr=1"), ElementsAre("train.lr"));
}

TEST(ConfigNumbers, OnACommandLineAreThoseOfAFile) {
  const auto complaint = [](const std::string& text) {
    std::int64_t number = 7;
    const std::string problem = read_number(text, number, {in_range(1, 100)});
    EXPECT_EQ(problem.empty(), number != 7) << text;
    return problem;
  };
  for (const auto* text : {"1", "1e2", "20.0"}) EXPECT_EQ(complaint(text), "") << text;
  EXPECT_EQ(complaint("010"), "expected an integer, got '010'; write 10");
  EXPECT_EQ(complaint("0x10"), "expected an integer, got '0x10'");
  EXPECT_EQ(complaint("nan"), "expected an integer, got 'nan'");
  EXPECT_EQ(complaint(""), "expected an integer, got ''");
  EXPECT_EQ(complaint("101"), "must be in [1, 100], got 101");
  EXPECT_EQ(complaint("99999999999999999999"), "must fit into 64 bits, got 99999999999999999999");
  double real = 0;
  for (const auto* text : {"nan", "inf", "1e", " 1", "1 "}) EXPECT_NE(read_number(text, real, {positive()}), "") << text;
  EXPECT_EQ(read_number("1e-3", real, {positive()}), "");
  EXPECT_EQ(real, 1e-3);
}

TEST(ConfigOverrides, OfLists) {
  const std::string text = "events: [{kind: switch, at: 5}, {kind: freeze, params: [a]}]";
  EXPECT_TRUE(read(text, {"events=[]"}).events.empty());
  const Example example = read(text, {"events.1.at=500", "events.1.params.0=b", "events.0={kind: freeze, params: [c]}"});
  EXPECT_EQ(std::get<Freeze>(example.events[1]).at.spelling, "500");
  EXPECT_THAT(std::get<Freeze>(example.events[1]).params, ElementsAre("b"));
  EXPECT_THAT(std::get<Freeze>(example.events[0]).params, ElementsAre("c"));
}

TEST(ConfigSource, SemanticViolations) {
  ConfigSource source("train:\n  lr: 2\nevents:\n  - {kind: switch, at: 5, rest: 1}\n", "f.yaml");
  source.override_with("train.steps=10");
  EXPECT_TRUE(source.contains("train.lr"));
  EXPECT_TRUE(source.contains("train.steps"));
  EXPECT_TRUE(source.contains("events.0.at"));
  EXPECT_FALSE(source.contains("events.1"));
  EXPECT_FALSE(source.contains("train.lr.x"));
  EXPECT_FALSE(source.contains("name"));
  EXPECT_TRUE(source.clean());
  source.read<Example>();
  EXPECT_FALSE(source.clean());
  EXPECT_FALSE(source.clean("events"));
  EXPECT_FALSE(source.clean("events.0"));
  EXPECT_TRUE(source.clean("events.0.at"));
  EXPECT_TRUE(source.clean("train"));
  source.fail("events.0.at", "is too early");
  source.fail("events.0.reset", "is missing");
  source.fail("events.7.at", "is nowhere");
  source.fail("train", "is wrong");
  source.fail("train.lr", "is too fast");
  source.fail("train.steps", "are too few");
  source.fail("name", "is missing");
  EXPECT_FALSE(source.clean("events.0.at"));
  EXPECT_FALSE(source.clean("train.eps"));  // below a member that is wrong
  try {
    source.throw_if_violated();
    FAIL();
  } catch (const ConfigError& error) {
    EXPECT_STREQ(error.what(),
                 "f.yaml:1:1: name: is missing\n"
                 "f.yaml:2:3: train: is wrong\n"
                 "f.yaml:2:7: train.lr: is too fast\n"
                 "f.yaml:3:1: events.7.at: is nowhere\n"
                 "f.yaml:4:5: events.0.reset: is missing\n"
                 "f.yaml:4:24: events.0.at: is too early\n"
                 "f.yaml:4:27: events.0.rest: unknown key 'rest' of kind switch; did you mean 'reset'?\n"
                 "<train.steps=10>:1:13: train.steps: are too few");
  }
}

TEST(ConfigWrite, SpellsOutEveryMember) { EXPECT_EQ(to_yaml(read(std::string(kFull))), kFullResolved); }

TEST(ConfigWrite, ReadsBackTheSame) {
  expect_round_trip(Example());
  expect_round_trip(read(std::string(kFull)));
  EXPECT_EQ(to_yaml(Numbers()), "reals: []\nintegers: []\ntexts: []\n");
}

TEST(ConfigWrite, NumbersReadBackExactly) {
  Numbers numbers;
  numbers.reals = {0, -0.0, 1, 0.1, 1e-8, 1e-3, 1e5, 1e20, 123456789.125, 5e-324, 1.7976931348623157e308};
  numbers.integers = {0, -1, 1000000, INT64_MAX, INT64_MIN};
  EXPECT_EQ(to_yaml(numbers),
            "reals: [0, -0, 1, 0.1, 1.0e-08, 0.001, 100000, 1.0e+20, 123456789.125, 5.0e-324, 1.7976931348623157e+308]\n"
            "integers: [0, -1, 1000000, 9223372036854775807, -9223372036854775808]\ntexts: []\n");
  std::mt19937_64 random(1);
  while (numbers.reals.size() < 2000) {
    const double value = std::bit_cast<double>(random());
    if (std::isfinite(value)) numbers.reals.push_back(value);
  }
  EXPECT_EQ(read<Numbers>(to_yaml(numbers)).reals, numbers.reals);
}

TEST(ConfigWrite, TextsReadBackExactly) {
  Numbers numbers;
  numbers.texts = {"",
                   " ",
                   "a b",
                   "null",
                   "~",
                   "Null",
                   "true",
                   "No",
                   "on",
                   "1",
                   "1e5",
                   "-",
                   "-a",
                   "- a",
                   "a-",
                   "a:",
                   "a:b",
                   ":a",
                   "a: b",
                   "#",
                   "a #b",
                   "a#b",
                   "[",
                   "]",
                   "{a}",
                   "a,b",
                   "'",
                   "\"",
                   "\\",
                   "\\n",
                   "\n",
                   "\t",
                   "\r",
                   "\x1b",
                   "\x7f",
                   "!",
                   "! a",
                   "&a",
                   "*a",
                   "%a",
                   "a%",
                   "@",
                   "`",
                   "|",
                   ">",
                   "? a",
                   "<<",
                   "---",
                   "...",
                   ".5",
                   "/a/b_c-d.e:f",
                   "0x10",
                   "\u00e9",
                   "\U0001f600",
                   "\ufeff",
                   "\u0085",
                   "\u2028",
                   std::string(3000, 'x'),
                   "2001-01-01"};
  const std::vector<std::string> pieces{"a",  "1", " ", ":", "-", "#", ",", "[", "]", "{", "}",  "\"",   "'",      "\\",  "\n",
                                        "\t", "!", "&", "*", "%", "|", ">", "?", "~", ".", "\r", "\x01", "\u00e9", "null"};
  std::mt19937_64 random(2);
  while (numbers.texts.size() < 2000) {
    std::string& text = numbers.texts.emplace_back();
    for (std::uint64_t n = random() % 6; n > 0; --n) text += pieces[random() % pieces.size()];
  }
  EXPECT_EQ(read<Numbers>(to_yaml(numbers)).texts, numbers.texts);
}

TEST(ConfigWrite, FlattenListsEveryValue) {
  EXPECT_THAT(
      flatten(read(std::string(kFull), {"layers=[]", "init=null"})),
      ElementsAre(Pair("name", "full"), Pair("seed", "7"), Pair("backend", "numpy"), Pair("train.steps", "100000"), Pair("train.lr", "0.0001"),
                  Pair("train.betas.0", "0.8"), Pair("train.betas.1", "0.99"), Pair("train.eps", "0"), Pair("train.amsgrad", "true"),
                  Pair("model.kind", "attention"), Pair("model.heads", "2"), Pair("model.init.std_dev", "-0.5"), Pair("events.0.kind", "switch"),
                  Pair("events.0.at", "50%"), Pair("events.0.reset", "false"), Pair("events.1.kind", "freeze"), Pair("events.1.at", "500"),
                  Pair("events.1.params.0", "c_attn"), Pair("events.1.params.1", "\"a b\""), Pair("layers", "[]"), Pair("data_seed", "12"),
                  Pair("init", "null"), Pair("notes.0", "\"it's\""), Pair("notes.1", "\"tab\\x09\""), Pair("notes.2", "\"12\""),
                  Pair("notes.3", "\"true\"")));
}

TEST(ConfigDescribe, ListsEveryKey) {
  Example example;
  example.model = Memory{20};
  Lines lines;
  for (const FieldHelp& field : describe(example))
    lines.push_back(fmt::format("{} | {} | {} | {} | {} | {}", field.path, field.owner, field.type, field.default_text, field.help, field.rule));
  EXPECT_THAT(
      lines,
      ElementsAre(
          "name |  | text | run | of the folder | a file name (letters, digits, '.', '_', '-'; no dot "
          "first; at most 100)",
          "seed |  | integer | 0 | of everything | ", "backend |  | text | torch | who computes | one of torch, numpy, none",
          "train |  | map |  | the optimizer | ", "train.steps | train | integer | 20000 | optimizer updates | at least 1",
          "train.lr | train | number | 0.001 | learning rate of Adam | > 0",
          "train.betas | train | number[2] | [0.9, 0.999] | decay rates of Adam's moments | in [0, 1)",
          "train.eps | train | number | 1.0e-08 | added to the root | >= 0, at most 1",
          "train.amsgrad | train | true or false | false | the variant of Adam | ", "model |  | map |  | the network | ",
          "model.kind | model | text | memory | which of the kinds | one of attention, memory",
          "model.attention.heads | model | integer | 4 | number of heads | at least 1", "model.attention.init | model | map |  | initial weights | ",
          "model.attention.init.std_dev | model.init | number | 0.02 | of the weights | ",
          "model.memory.patterns | model | integer | 20 | stored patterns | at least 1", "events |  | map[] | [] | what happens during training | ",
          "events[].kind | events[] | text |  | which of the kinds | one of switch, freeze",
          "events[].switch.at | events[] | a step, 50% or end | end | when | ",
          "events[].switch.reset | events[] | true or false | false | forget the moments | ",
          "events[].freeze.at | events[] | a step, 50% or end | end | when | ",
          "events[].freeze.params | events[] | text[] | [] | which weights | non-empty", "layers |  | map[] | [] | of the readout | ",
          "layers[].width | layers[] | integer | 8 | units | in (0, 64]", "layers[].pairs | layers[] | integer[2][] | [] | connections | ",
          "data_seed |  | integer or null | null | of the data | at most 1000000", "init |  | map or null | null | of the readout | ",
          "init.std_dev | init | number | 0.02 | of the weights | ", "notes |  | text[] | [] | for the reader | "));
}

TEST(ConfigDescribe, RefusesARuleThatCannotSpeakAboutItsMember) { EXPECT_THROW(describe(Mistake()), std::logic_error); }

/// A few random edits: bits, bytes and pieces of the text or of YAML.
std::string mutated(std::string text, std::mt19937_64& random) {
  static const Lines kPieces{"[",      "]",    "{", "}",  ":",  ": ", ",", "- ", "? ",   "#",    "&a ", "*a",    "!",
                             "!!int ", "|",    ">", "'",  "\"", "%",  "@", "\n", "\n  ", "\t",   "\r",  "---\n", "...\n",
                             "<<: ",   "null", "~", "\\", "0",  "-",  ".", "e9", "\xc3", "\xff", "\0"s};
  for (std::uint64_t edits = 1 + random() % 2; edits > 0; --edits) {
    const std::size_t at = random() % (text.size() + 1);
    const std::size_t length = std::min<std::size_t>(1 + random() % 12, text.size() - at);
    switch (random() % 5) {
      case 0:
        if (length > 0) text[at] = static_cast<char>(text[at] ^ (1 << random() % 8));
        break;
      case 1: text.erase(at, length); break;
      case 2: text.insert(random() % (text.size() + 1), text.substr(at, length)); break;
      default: text.insert(at, kPieces[random() % kPieces.size()]);
    }
  }
  return text;
}

TEST(ConfigFuzz, ReadsOrThrowsConfigError) {
  std::mt19937_64 random(3);
  int read_well = 0;
  constexpr int kTries = 5000;
  for (int i = 0; i < kTries; ++i) {
    const std::string text = mutated(std::string(i % 2 ? kFull : kFullResolved), random);
    try {
      expect_round_trip(read(text));
      ++read_well;
    } catch (const ConfigError& error) {
      ASSERT_TRUE(std::string_view(error.what()).starts_with("f.yaml:")) << error.what();
    }
  }
  EXPECT_GT(read_well, kTries / 40);
  EXPECT_LT(read_well, kTries / 2);
}

TEST(ConfigFuzz, OverridesToo) {
  const Lines seeds{"train.lr=0.5", "events.1.params.0=b", "events=[{kind: switch, at: 5}]", "notes=[a, \"b\"]", "model={heads: 3}"};
  std::mt19937_64 random(4);
  for (int i = 0; i < 2000; ++i) {
    try {
      expect_round_trip(read(std::string(kFull), {mutated(seeds[random() % seeds.size()], random), "seed=1"}));
    } catch (const ConfigError& error) {
      ASSERT_TRUE(std::string_view(error.what()).starts_with("<")) << error.what();
    }
  }
}

}  // namespace
}  // namespace mnemo
