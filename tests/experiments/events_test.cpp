// What events do to a run, and that those which act on a copy do nothing to it (DESIGN 3, MATHS 7 and 8).

#include "experiments/config/events.h"

#include "core/npy.h"
#include "experiments/directory/run_reader.h"
#include "experiments/run/data.h"
#include "experiments/run/evaluate.h"
#include "experiments/run/weights.h"
#include "models/make_model.h"
#include "tests/experiments/place.h"
#include "models/make_model.h"

#include <torch/torch.h>

#include <cmath>
#include <numeric>
#include <sstream>

namespace mnemo {
namespace {

using test::expect_same;
using test::Place;
using test::results;
using test::slurp;
using test::spill;
using ::testing::HasSubstr;
using ::testing::Not;

/// A run of 24 steps with these events, a line each.
std::string tiny(const std::string& events, const std::string& train = "") {
  return "name: tiny\nthreads: 1\ndevice: cpu\n"
         "data:  {num_sequences: 12, length: 6}\n"
         "model: {kind: one_layer_attention, heads: 1, head_dim: 4, mlp_layers: 2}\n"
         "train: {steps: 24, batch_size: 4, lr: 1.0e-2, log_every: 5" +
         train +
         "}\n"
         "eval:  {every: 12, train_stride: 3, novel: 3}\n"
         "events:\n" +
         (events.empty() ? "  []\n" : events);
}

fs::path done(const Place& place, std::vector<std::string> overrides = {}) {
  const auto outcome = place.train(std::move(overrides));
  EXPECT_EQ(outcome.code, ExitCode::done) << outcome.text;
  return place.run();
}

template <class T>
std::vector<T> column(const fs::path& path) {
  const auto array = read_npy(path);
  const auto values = array.view().as<T>();
  return {values.begin(), values.end()};
}

/// The i-th row of eval/<set>/loss.npy; the last for i = -1.
std::vector<float> losses(const fs::path& run, const std::string& set, std::int64_t i) {
  const auto array = read_npy(run / "eval" / set / "loss.npy");
  const auto row = i < 0 ? array.shape[0] + i : i;
  const auto values = array.view().as<float>().subspan(static_cast<std::size_t>(row * array.shape[1]), static_cast<std::size_t>(array.shape[1]));
  return {values.begin(), values.end()};
}

std::map<std::string, std::string> tensors(const fs::path& path) {
  std::map<std::string, std::string> bytes;
  const auto file = Safetensors::read(path);
  for (const auto& [name, view] : file.tensors()) bytes[name] = view.as_bytes();
  return bytes;
}

/// Updates done of each parameter at the planned end, by name.
std::map<std::string, std::int64_t> adam_steps(const Place& place) {
  const auto file = Safetensors::read(place.checkpoint(24, 0));
  const auto specs = facts_of(load_config(place.file(), {}).config.model, 6).parameters;
  std::map<std::string, std::int64_t> steps;
  for (std::size_t i = 0; i < specs.size(); ++i) steps[specs[i].name] = file.get<std::int64_t>("adam.steps")[i];
  return steps;
}

// ---- switch, freeze

TEST(Switch, ResetsTheOptimizerWhenAsked) {
  for (const bool reset : {false, true}) {
    const Place place(tiny(fmt::format("  - {{kind: switch, at: 20, reset_optimizer: {}}}\n", reset)));
    done(place);
    for (const auto& [name, steps] : adam_steps(place)) EXPECT_EQ(steps, reset ? 4 : 24) << name;
  }
}

TEST(Freeze, ResetsTheOptimizerOfItsParametersWhenAsked) {
  const Place place(
      tiny("  - {kind: freeze,   at: 12, params: [mlp]}\n"
           "  - {kind: freeze,   at: 12, name: other, params: [c_attn], reset_optimizer: true}\n"
           "  - {kind: unfreeze, at: 20, params: [c_attn, mlp]}\n"
           "  - {kind: unfreeze, at: 20, name: third, params: [wte.*], reset_optimizer: true}\n"));
  done(place);
  const auto steps = adam_steps(place);
  EXPECT_EQ(steps.at("linear_modules.0.weight"), 16);
  EXPECT_EQ(steps.at("c_attn.bias"), 4);
  EXPECT_EQ(steps.at("wte.weight"), 4);
  EXPECT_EQ(steps.at("wpe.weight"), 24);
}

TEST(Freeze, KeepsEveryBitOverAThousandStepsOfDecayAndMomentum) {
  const Place place(
      tiny("  - {kind: snapshot, at: 20, name: before}\n"
           "  - {kind: freeze,   at: 20, params: [c_attn, linear_modules.1.*]}\n"
           "  - {kind: switch,   at: 500}\n",
           ", weight_decay: 0.1"));
  done(place, {"train.steps=1020", "run=tiny"});
  const auto before = tensors(place.run() / "snapshots/before.safetensors"), after = tensors(place.run() / "final.safetensors");
  for (const auto& [name, bytes] : before) {
    const bool frozen = name.starts_with("c_attn") || name.starts_with("linear_modules.1.");
    EXPECT_EQ(after.at(name) == bytes, frozen) << name;
  }
}

TEST(Switch, StartsNewSequencesAtChanceAndKeepsTheOldTable) {
  const Place place(
      "name: tiny\nthreads: 1\ndata: {num_sequences: 500, length: 32}\n"
      "model: {kind: one_layer_attention, heads: 2, head_dim: 8}\n"
      "train: {steps: 400, batch_size: 32, lr: 1.0e-2}\n"
      "events:\n  - {kind: switch, at: 300}\n");
  const auto run = done(place);
  const auto accuracy = read_npy(run / "eval/phase_1/accuracy.npy");
  const auto first = accuracy.view().as<float>().first(500);
  double mean = 0;
  for (const auto value : first) mean += value / 500;
  EXPECT_NEAR(mean, 0.5, 4 * 0.5 / std::sqrt(500.0 * 31));  // fair bits, whatever the predictions
  EXPECT_EQ(column<std::uint8_t>(run / "sequences/phase_0.npy"), SequenceTable::random(0, 0, 500, 32).unpack_all());
  EXPECT_EQ(column<std::uint8_t>(run / "sequences/phase_1.npy"), SequenceTable::random(0, 1, 500, 32).unpack_all());
  EXPECT_EQ(column<std::int64_t>(run / "eval/phase_0/step.npy"), (std::vector<std::int64_t>{0, 300, 300, 400}));
}

TEST(Switch, EveryForgetsAgainAndAgainAndScoresEveryPhase) {
  const Place place(tiny("  - {kind: switch, every: 5}\n"));
  done(place);
  EXPECT_EQ(nlohmann::json::parse(slurp(place.run() / "switches.json")).size(), 4u);
  for (int phase = 0; phase <= 4; ++phase) {
    EXPECT_EQ(column<std::int64_t>(place.run() / fmt::format("eval/phase_{}/step.npy", phase)).back(), 24) << phase;
    EXPECT_TRUE(fs::exists(place.run() / fmt::format("theory/phase_{}.npy", phase)));
  }
}

// ---- load and swap_test

constexpr const char* kBefore = "  - {kind: snapshot, at: 12, name: before}\n";

TEST(Swap, AtItsInstantReproducesTheOutputsAndLaterChangesThem) {
  const Place place(tiny(std::string(kBefore) + "  - {kind: swap_test, at: 12, name: same, params: [\"*\"], from: before}\n"
                                                "  - {kind: switch,    at: 12}\n"
                                                "  - {kind: swap_test, at: end, name: all, params: [\"*\"], from: before}\n"
                                                "  - {kind: swap_test, at: end, name: part, params: [mlp, lm_head], from: before, on: [phase_0]}\n"));
  const auto run = done(place);
  const auto at_the_switch = losses(run, "phase_0", 1), now = losses(run, "phase_0", -1), part = losses(run, "part.phase_0", 0);
  EXPECT_EQ(losses(run, "same.phase_0", 0), at_the_switch);
  EXPECT_EQ(losses(run, "all.phase_0", 0), at_the_switch);
  EXPECT_NE(now, at_the_switch);
  EXPECT_NE(part, now);
  EXPECT_NE(part, at_the_switch);
  for (const char* set : {"same.train", "same.novel", "all.phase_1", "all.train", "all.novel"})
    EXPECT_TRUE(fs::exists(run / "eval" / set / "step.npy")) << set;
  for (const char* set : {"same.phase_1", "part.train", "part.phase_1", "part.novel"}) EXPECT_FALSE(fs::exists(run / "eval" / set)) << set;
  EXPECT_EQ(column<std::int64_t>(run / "eval/all.phase_1/presentations.npy"), [&] {
    auto all = column<std::int64_t>(run / "eval/phase_1/presentations.npy");
    return std::vector<std::int64_t>(all.end() - 12, all.end());
  }());
}

TEST(Load, ThereAndBackIsTheIdentity) {
  const Place plain(tiny("")), place(tiny("  - {kind: snapshot, at: 5, name: old}\n"
                                          "  - {kind: snapshot, at: 13, name: now}\n"
                                          "  - {kind: load, at: 13, name: there, from: old, params: [mlp, c_attn.*]}\n"
                                          "  - {kind: load, at: 13, name: back, from: now}\n"));
  EXPECT_EQ(slurp(done(place) / "final.safetensors"), slurp(done(plain) / "final.safetensors"));
}

TEST(Load, TakesWhatItNamesAndNoMore) {
  const Place place(
      tiny("  - {kind: snapshot, at: 5, name: old}\n"
           "  - {kind: freeze,   at: 13, params: [\"*\"]}\n"
           "  - {kind: snapshot, at: 13, name: now}\n"
           "  - {kind: load,     at: 13, from: old, params: [mlp]}\n"));
  const auto run = done(place);
  const auto old = tensors(run / "snapshots/old.safetensors"), now = tensors(run / "snapshots/now.safetensors");
  for (const auto& [name, bytes] : tensors(run / "final.safetensors")) {
    EXPECT_EQ(bytes, (name.starts_with("linear_modules") ? old : now).at(name)) << name;
  }
}

TEST(Load, AtZeroIsAWarmStartFromAFileBesideTheConfiguration) {
  const Place first(tiny("")), second(tiny("  - {kind: load, at: 0, from: other.safetensors}\n"));
  const auto weights = second.file().parent_path() / "other.safetensors";
  fs::copy_file(done(first) / "final.safetensors", weights);
  const auto run = done(second);
  EXPECT_EQ(losses(run, "phase_0", 0), losses(first.run(), "phase_0", 0));
  EXPECT_EQ(losses(run, "phase_0", 1), losses(first.run(), "phase_0", -1));
  fs::remove(weights);  // a run that has used it can still be read
  EXPECT_EQ(stored_config(run).name, "tiny");
}

TEST(Load, RefusesABadFileBeforeTheRun) {
  const Place place(tiny("  - {kind: load, at: 0, from: ./w.safetensors}\n")), wide(tiny(""));
  const auto path = place.file().parent_path() / "w.safetensors";
  const auto expect_refused = [&](std::string_view what) {
    const auto outcome = place.train();
    EXPECT_EQ(outcome.code, ExitCode::config) << outcome.text;
    EXPECT_THAT(outcome.text, HasSubstr("tiny.yaml:9:31: events.0.from: "));
    EXPECT_THAT(outcome.text, HasSubstr(path.string()));
    EXPECT_THAT(outcome.text, HasSubstr(std::string(what)));
    EXPECT_FALSE(fs::exists(place.cache()));
  };
  expect_refused("No such file");
  done(wide, {"model.head_dim=8", "run=tiny"});
  spill(path, slurp(wide.run() / "final.safetensors"));
  expect_refused("tensor 'wte.weight' is float32 (2, 8), this model's is float32 (2, 4)");
  const Place good(tiny(""));
  const auto whole = slurp(done(good) / "final.safetensors");
  for (const auto& bytes : {whole.substr(0, 7), whole.substr(0, 100), whole.substr(0, whole.size() - 1), whole + "x"}) {
    spill(path, bytes);
    expect_refused("");
  }
  auto flipped = whole;
  flipped.back() = static_cast<char>(flipped.back() ^ 1);
  spill(path, flipped);
  expect_refused("digest");
  spill(path, std::string("\xff\xff\xff\xff\xff\xff\xff\x7f{}", 10));  // a header of 2^63 bytes
  expect_refused("");
  spill(path,
        "\x80\x04\x95"
        "cos\nsystem\n(S'touch /tmp/x'\ntR.");  // a pickle: nothing in it is executed
  expect_refused("");
  spill(path, whole);
  done(place);
}

TEST(Load, OfASnapshotThatWasDamagedLosesNothing) {
  const Place place(tiny(std::string(kBefore) + "  - {kind: swap_test, at: 20, params: [mlp], from: before}\n"));
  ASSERT_EQ(place.train_until_poll(30).code, ExitCode::stopped);
  ASSERT_LT(place.status().at("step"), 20);
  const auto snapshot = place.run() / "snapshots/before.safetensors";
  const auto whole = slurp(snapshot);
  spill(snapshot, whole.substr(0, whole.size() / 2));
  const auto outcome = place.train();
  EXPECT_EQ(outcome.code, ExitCode::data);
  EXPECT_THAT(outcome.text, HasSubstr("before.safetensors"));
  EXPECT_EQ(place.status().at("state"), "failed");
  spill(snapshot, whole);
  const Place untouched(slurp(place.file()));
  expect_same(results(done(place)), results(done(untouched)));
}

// ---- events on a copy

constexpr const char* kOnCopies =
    "  - {kind: swap_test,  every: 6, params: [mlp, lm_head], from: start}\n"
    "  - {kind: transplant, at: 20, from: start, stride: 1}\n"
    "  - {kind: fork_probe, every: 7, freeze: [c_attn], sequences: 5, max_steps: 12}\n"
    "  - {kind: features,   at: 20, sequences: 5}\n"
    "  - {kind: fork_probe, at: end, name: last, sequences: 5, max_steps: 12}\n";
constexpr const char* kRest =
    "  - {kind: snapshot, at: 0, name: start}\n"
    "  - {kind: freeze, at: 6, params: [embeddings]}\n"
    "  - {kind: switch, at: 13}\n";

TEST(Copies, LeaveEveryByteOfTheRunAsItIs) {
  const Place without(tiny(kRest)), with(tiny(std::string(kRest) + kOnCopies));
  auto plain = results(done(without)), probed = results(done(with));
  EXPECT_EQ(tensors(with.checkpoint(24, 0)), tensors(without.checkpoint(24, 0)));
  for (auto* files : {&plain, &probed}) {
    for (const char* path : {"config.yaml", "run.json", "end"}) files->erase(path);
  }
  std::size_t more = 0;
  std::erase_if(probed, [&](const auto& file) {
    const auto& path = file.first;
    const bool of_a_copy =
        path.starts_with("eval/swap_test.") || path.starts_with("transplant/") || path.starts_with("probes/") || path.starts_with("features/");
    more += of_a_copy;
    return of_a_copy;
  });
  EXPECT_GT(more, 20u);
  expect_same(probed, plain);
}

TEST(Transplant, HoldsEverySubsetAndItsEndsAreTheTwoModels) {
  const Place place(tiny(std::string(kRest) + kOnCopies));
  const auto run = done(place, {"events.4.at=13", "run=tiny"});
  std::istringstream csv(slurp(run / "transplant/transplant.csv"));
  std::map<std::string, double> loss;
  std::string line, header;
  std::getline(csv, header);
  EXPECT_EQ(header, "step,embeddings,c_attn,ln_f,mlp,lm_head,set,accuracy,loss");
  while (std::getline(csv, line)) loss[line.substr(0, line.find_last_of(',', line.rfind(',') - 1))] = std::stod(line.substr(line.rfind(',') + 1));
  EXPECT_EQ(loss.size(), 32u * 3);
  const auto mean_loss = [&](const std::string& set, std::int64_t i) {
    const auto row = losses(run, set, i);
    return std::accumulate(row.begin(), row.end(), 0.0) / static_cast<double>(row.size());
  };
  // evaluations at 0, 12, 13 and, after the switch, 13
  EXPECT_NEAR(loss.at("13,0,0,0,0,0,old"), mean_loss("phase_0", 3), 1e-6);
  EXPECT_NEAR(loss.at("13,0,0,0,0,0,new"), mean_loss("phase_1", 0), 1e-6);
  EXPECT_NEAR(loss.at("13,0,0,0,0,0,novel"), mean_loss("novel", 3), 1e-6);
  EXPECT_NEAR(loss.at("13,1,1,1,1,1,old"), mean_loss("phase_0", 0), 1e-6);
  EXPECT_NEAR(loss.at("13,1,1,1,1,1,novel"), mean_loss("novel", 0), 1e-6);
  EXPECT_NE(loss.at("13,0,0,0,1,0,old"), loss.at("13,0,0,0,0,0,old"));
}

nlohmann::json probe(const fs::path& run, const std::string& name) { return nlohmann::json::parse(slurp(run / "probes" / (name + ".json"))); }

TEST(ForkProbe, StopsWhenTenBatchesPass) {
  const Place place(
      tiny("  - {kind: fork_probe, at: 0, name: at_once, until: 0, sequences: 5}\n"
           "  - {kind: fork_probe, at: 0, name: never, until: 1, sequences: 5, max_steps: 15, seed: 7}\n"
           "  - {kind: fork_probe, at: 0, name: frozen, freeze: [embeddings, c_attn, ln_f, mlp], until: 0.9, sequences: 5, max_steps: 15}\n"
           "  - {kind: fork_probe, at: 0, name: learns, until: 0.75, sequences: 2, max_steps: 3000}\n"));
  const auto run = done(place, {"model.head_dim=16", "run=tiny"});
  EXPECT_EQ(probe(run, "at_once.0").at("steps_needed"), 10);
  EXPECT_EQ(probe(run, "at_once.0").at("num_iters_required"), 9);
  EXPECT_EQ(column<float>(run / "probes/at_once.0.accuracy.npy").size(), 10u);
  const auto never = probe(run, "never.0");
  EXPECT_TRUE(never.at("steps_needed").is_null());
  EXPECT_EQ(never.at("num_iters_required"), 14);
  EXPECT_EQ(never.at("seed"), 7);
  EXPECT_EQ(never.at("sequences"), 5);
  EXPECT_EQ(column<float>(run / "probes/never.0.accuracy.npy").size(), 15u);
  EXPECT_TRUE(probe(run, "frozen.0").at("steps_needed").is_null());
  const auto learns = column<float>(run / "probes/learns.0.accuracy.npy");
  EXPECT_EQ(probe(run, "learns.0").at("steps_needed"), learns.size());
  double last = 0, before = 0;
  for (auto i = learns.size() - 10; i < learns.size(); ++i) last += learns[i] / 10, before += learns[i - 1] / 10;
  EXPECT_GT(last, 0.75);
  EXPECT_LE(before, 0.75 + 1e-6);
}

TEST(Features, LeadToTheLogitsOfTheModel) {
  const Place place(tiny("  - {kind: features, at: end, sequences: 70, stride: 2, seed: 3}\n"));
  const auto run = done(place);
  const auto folder = run / "features/features.24";
  const auto table = SequenceTable::novel(3, 70, 6, Stream::probe_bits);
  EXPECT_EQ(column<std::uint8_t>(folder / "sequences.npy"), table.unpack_all());
  EXPECT_EQ(column<std::int64_t>(folder / "position.npy"), (std::vector<std::int64_t>{0, 2, 4}));
  for (int j = 0; j <= 2; ++j) EXPECT_EQ(read_npy_header(folder / fmt::format("layer_{}.npy", j)).shape, (Shape{70, 3, 4})) << j;
  EXPECT_FALSE(fs::exists(folder / "layer_3.npy"));

  const auto config = load_config(place.file(), {}).config;
  const auto model = make_model({&config.model, 1}, 6, torch::kFloat32, torch::kCPU);
  load_weights(*model, Safetensors::read(run / "final.safetensors"));
  std::vector<std::int32_t> ranks = strided_ranks(70, 1);
  const std::vector<double> weight(70);
  const auto cells = cells_of_rows(table, ranks, weight, Sharing::none);
  torch::NoGradGuard no_grad;
  const auto logits_UP = model->logits(CellBatch({{&cells, &table}}, torch::kFloat32, torch::kCPU)).view({70, 5}).slice(1, 0, 5, 2);
  auto last = column<float>(folder / "layer_2.npy");
  const auto h = torch::from_blob(last.data(), {70, 3, 4});
  const auto z = torch::matmul(h, model->parameters["lm_head.weight"][0].t()) + model->parameters["lm_head.bias"][0];
  EXPECT_LT((z.select(2, 1) - z.select(2, 0) - logits_UP).abs().max().item<double>(), 1e-6);
  auto first = column<float>(folder / "layer_0.npy");  // LayerNorm: mean of its bias, where its scale is still near 1
  EXPECT_LT(torch::from_blob(first.data(), {70, 3, 4}).mean().abs().item<double>(), 0.3);
}

// ---- controls

TEST(AttentionControls, ZeroedAndFrozenMakesEveryLogitOneConstant) {
  const Place place(tiny("  - {kind: freeze, at: 0, params: [c_attn]}\n"));
  done(place, {"model.attention_init=zero", "train.steps=500", "run=tiny"});
  const auto weights = Safetensors::read(place.run() / "final.safetensors");
  for (const char* name : {"c_attn.weight", "c_attn.bias"}) {
    for (const auto value : weights.get<float>(name)) ASSERT_EQ(value, 0) << name;
  }
  const auto config = load_config(place.file(), {}).config;
  const auto model = make_model({&config.model, 1}, 6, torch::kFloat32, torch::kCPU);
  load_weights(*model, weights);
  const auto law = rank_law(config);
  const auto table = table_of_phase(config, law, 0);
  const auto& probabilities = law.sampler.probabilities();
  const std::vector<std::int32_t> order(table.order().begin(), table.order().end());
  std::vector<double> weight;
  for (const auto rank : order) weight.push_back(probabilities[static_cast<std::size_t>(rank)]);
  const auto cells = cells_of_rows(table, order, weight);
  const CellBatch rows({{&cells, &table}}, torch::kFloat32, torch::kCPU);
  torch::NoGradGuard no_grad;
  for (const auto& logits : {model->logits(rows), model->predict(rows)}) EXPECT_EQ(logits.min().item<float>(), logits.max().item<float>());
  double ones = 0;  // p-weighted frequency of 1 among the predicted bits
  for (std::size_t n = 0; n < cells.weight.size(); n += 2) ones += cells.weight[n + 1];
  EXPECT_GE(model->gradient(rows).loss_R.item<double>(), -ones * std::log(ones) - (1 - ones) * std::log(1 - ones) - 1e-6);
}

TEST(AttentionControls, ZeroedAndTrainableIsASaddleThatNothingLeaves) {
  // LayerNorm(0) = 0, so that every relu stands at 0, where its derivative is 0: only lm_head.bias has a gradient
  const Place trained(tiny("")), frozen(tiny("  - {kind: freeze, at: 0, params: [c_attn]}\n"));
  for (const auto* place : {&trained, &frozen}) done(*place, {"model.attention_init=zero", "run=tiny"});
  EXPECT_EQ(tensors(trained.run() / "final.safetensors"), tensors(frozen.run() / "final.safetensors"));
}

// ---- train.stop_if

constexpr const char* kStop = ", stop_if: {train_loss_above: 0.68, after: 8}";

TEST(AtChance, EndsAtTheFirstLineFromThereOn) {
  const Place place(tiny("  - {kind: snapshot, at: end}\n", kStop));
  const std::vector<std::string> slow{"train.lr=1e-9", "run=tiny"};
  const auto ended = place.train(slow);
  EXPECT_EQ(ended.code, ExitCode::done);
  EXPECT_THAT(ended.text, HasSubstr("at chance: ended at step 10 of 24"));
  EXPECT_EQ(place.status().at("state"), "at_chance");
  EXPECT_EQ(place.status().at("step"), 10);
  EXPECT_EQ(nlohmann::json::parse(slurp(place.run() / "meta.json")).at("sessions").back().at("result"), "at_chance");
  EXPECT_THAT(place.metrics(), HasSubstr("{\"step\": 10,"));
  EXPECT_THAT(place.metrics(), Not(HasSubstr("{\"step\": 15,")));
  EXPECT_TRUE(fs::exists(place.run() / "final.safetensors"));
  EXPECT_FALSE(fs::exists(place.run() / "snapshots"));
  const auto kept = slurp(place.run() / "status.json");
  for (const auto* more : {"train.steps=24", "train.steps=40"}) {  // a longer one would have ended there as well
    const auto again = place.train({slow[0], slow[1], more});
    EXPECT_EQ(again.code, ExitCode::done);
    EXPECT_THAT(again.text, HasSubstr("at chance: ended at step 10"));
    EXPECT_THAT(again.text, HasSubstr("already done"));
    EXPECT_EQ(slurp(place.run() / "status.json"), kept);
  }
}

TEST(AtChance, IsTheSameAfterAStop) {
  const Place place(tiny("", kStop)), whole(tiny("", kStop));
  const std::vector<std::string> slow{"train.lr=1e-9", "run=tiny"};
  done(whole, slow);
  for (const std::int64_t k : {1, 5, 14, 15}) {  // the last: before the line that decides
    const Place stopped(tiny("", kStop));
    ASSERT_EQ(stopped.train_until_poll(k, slow).code, ExitCode::stopped) << k;
    done(stopped, slow);
    EXPECT_EQ(stopped.status().at("state"), "at_chance");
    EXPECT_EQ(slurp(stopped.run() / "final.safetensors"), slurp(whole.run() / "final.safetensors"));
    EXPECT_EQ(stopped.metrics(), whole.metrics());
  }
}

TEST(AtChance, SparesARunThatHasLeftIt) {
  // chance again after a switch: only the first line from `after` on decides
  const Place place(tiny("  - {kind: switch, at: 12}\n", ", stop_if: {train_loss_above: 0.693, after: 6}"));
  done(place);
  EXPECT_EQ(place.status().at("state"), "done");
  EXPECT_EQ(place.status().at("step"), 24);
}

}  // namespace
}  // namespace mnemo
