// Two rows of one step are told apart by their moment, also in runs that were made before rows had one.

#include "core/npy.h"
#include "core/safetensors.h"
#include "tests/experiments/place.h"

namespace mnemo {
namespace {

using test::expect_same;
using test::Place;
using test::results;

/// Rows at 0, 10 twice, 12 twice, 24, and of the new sequences at 12 (once: there were none before) and 24.
constexpr const char* kConfig = R"(name: tiny
threads: 1
device: cpu
data:  {num_sequences: 12, length: 6}
model: {kind: one_layer_attention, heads: 1, head_dim: 4, mlp_layers: 1}
train: {steps: 24, batch_size: 4, lr: 1.0e-2, log_every: 5}
eval:  {every: 12, train_stride: 3, novel: 3, attention: [vertical_bars]}
events:
  - {kind: snapshot,  at: 5, name: early}
  - {kind: load,      at: 10, from: early, params: [mlp]}
)";
constexpr const char* kSwitch = "  - {kind: switch,    at: 12}\n";

std::vector<int> moments(const Place& place, const std::string& folder) {
  const auto array = read_npy(place.run() / folder / "moment.npy");
  EXPECT_EQ(array.shape, read_npy_header(place.run() / folder / "step.npy").shape);
  const auto values = array.view().as<std::uint8_t>();
  return {values.begin(), values.end()};
}

TEST(Moment, IsOneAfterAnEventThatChangedDataOrWeights) {
  const std::string swap = "  - {{kind: swap_test, at: 12, name: {}, params: [mlp], from: early, on: [phase_0]}}\n";
  const Place place(kConfig + fmt::format(fmt::runtime(swap), "before") + kSwitch + fmt::format(fmt::runtime(swap), "after"));
  ASSERT_EQ(place.train().code, ExitCode::done);
  const std::vector<int> expected{0, 0, 1, 0, 1, 0};
  for (const char* folder : {"eval/phase_0", "eval/train", "eval/novel", "attention"}) EXPECT_EQ(moments(place, folder), expected) << folder;
  EXPECT_EQ(moments(place, "eval/phase_1"), (std::vector<int>{1, 0}));
  EXPECT_EQ(moments(place, "eval/before.phase_0"), (std::vector<int>{0}));
  EXPECT_EQ(moments(place, "eval/after.phase_0"), (std::vector<int>{1}));
}

/// As the version before rows had a moment would have left it.
void forget_moments(const Place& place) {
  for (const auto& entry : fs::recursive_directory_iterator(place.run() / "eval")) {
    if (entry.path().filename() == "moment.npy") fs::remove(entry.path());
  }
  fs::remove(place.run() / "attention/moment.npy");
  for (const auto& entry : fs::directory_iterator(place.run() / "checkpoints")) {
    const auto file = Safetensors::read(entry.path());
    auto metadata = file.metadata();
    auto files = nlohmann::json::parse(metadata.at("files"));
    for (auto mark = files.begin(); mark != files.end();) {
      mark = mark->at("path").get<std::string>().ends_with("/moment.npy") ? files.erase(mark) : mark + 1;
    }
    metadata["files"] = files.dump();
    write_safetensors(entry.path(), {file.tensors().begin(), file.tensors().end()}, metadata);
  }
}

TEST(Moment, IsRestoredInARunMadeBefore) {
  const std::string config = std::string(kConfig) + kSwitch;
  const Place whole(config);
  auto request = whole.request();
  std::int64_t polls = 0;
  request.host.stop = [&] { return ++polls < 0; };
  ASSERT_EQ(Place::carry_out(request).code, ExitCode::done);
  for (std::int64_t k = 2; k < polls; k += 5) {
    SCOPED_TRACE(fmt::format("stopped at poll {}", k));
    const Place place(config);
    ASSERT_EQ(place.train_until_poll(k).code, ExitCode::stopped);
    forget_moments(place);
    auto expected = results(whole.run());
    if (fs::exists(place.checkpoint(24, 0))) expected["end"] = test::slurp(place.checkpoint(24, 0));  // stays as it was written
    const auto resumed = place.train();
    ASSERT_EQ(resumed.code, ExitCode::done) << resumed.text;
    expect_same(results(place.run()), expected);
  }
}

}  // namespace
}  // namespace mnemo
