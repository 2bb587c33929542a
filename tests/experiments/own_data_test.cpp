// Own sequences with own weights: ranks follow the weights.

#include "core/npy.h"
#include "core/safetensors.h"
#include "experiments/run/data.h"
#include "tests/experiments/place.h"

#include <numeric>

namespace mnemo {
namespace {

using test::expect_same;
using test::Place;
using test::results;
using ::testing::HasSubstr;

constexpr const char* kConfig = R"(name: tiny
threads: 1
device: cpu
model: {kind: one_layer_attention, heads: 1, head_dim: 4, mlp_layers: 1}
train: {steps: 24, batch_size: 4, lr: 1.0e-2, log_every: 5}
eval:  {every: 6, train_stride: 2, novel: 3}
data:  {file: bits.npy, weights: weights.npy}
)";
const std::vector<double> kFalling{8, 5, 5, 3, 1, 0, 0};     // ties and zeros
const std::vector<std::int64_t> kRows{2, 0, 5, 6, 3, 1, 4};  // row of each rank, by kMixed
const std::vector<double> kMixed{5, 0, 8, 1, 0, 5, 3};

/// Seven sequences of six bits, their file in the order of `rows`.
class OwnData : public Place {
 public:
  OwnData(const std::vector<double>& weights, bool ranked) : Place(kConfig) {
    const auto table = SequenceTable::random(4, 0, 7, 6);
    std::vector<std::uint8_t> bits(7 * 6);
    for (std::size_t row = 0; row < 7; ++row) {
      const auto sequence =
          ranked ? static_cast<std::int32_t>(row) : static_cast<std::int32_t>(std::find(kRows.begin(), kRows.end(), row) - kRows.begin());
      table.unpack({&sequence, 1}, &bits[row * 6]);
    }
    write_npy(file().parent_path() / "bits.npy", view_of(bits.data(), {7, 6}));
    give(weights);
  }
  void give(const std::vector<double>& weights) const { write_npy(file().parent_path() / "weights.npy", row_of(weights)); }
  std::vector<std::int64_t> rows() const {
    const auto array = read_npy(run() / "data_rows.npy");
    const auto values = array.view().as<std::int64_t>();
    return {values.begin(), values.end()};
  }
  /// As the version before would have left it, which drew row for rank and kept no word of the weights.
  void forget_rows() const {
    fs::remove(run() / "data_rows.npy");
    for (const auto& entry : fs::directory_iterator(run() / "checkpoints")) {
      const auto stored = Safetensors::read(entry.path());
      auto metadata = stored.metadata();
      EXPECT_EQ(metadata.erase("weights"), 1u);
      write_safetensors(entry.path(), {stored.tensors().begin(), stored.tensors().end()}, metadata);
    }
  }
};

TEST(OwnWeights, RanksFollowThem) {
  const OwnData mixed(kMixed, false), falling(kFalling, true);
  const auto outcome = mixed.train();
  ASSERT_EQ(outcome.code, ExitCode::done) << outcome.text;
  ASSERT_EQ(falling.train().code, ExitCode::done);
  EXPECT_EQ(mixed.rows(), kRows);
  std::vector<std::int64_t> identity(7);
  std::iota(identity.begin(), identity.end(), 0);
  EXPECT_EQ(falling.rows(), identity);

  // but for the order of the files they are one run
  auto actual = results(mixed.run()), expected = results(falling.run());
  for (auto* files : {&actual, &expected}) {
    for (const char* path : {"config.yaml", "run.json", "data_rows.npy", "end"}) files->erase(path);
  }
  expect_same(actual, expected);
  const auto presentations = read_npy(mixed.run() / "eval/phase_0/presentations.npy");
  const auto counts = presentations.view().as<std::int64_t>().last(7);
  EXPECT_EQ(std::accumulate(counts.begin(), counts.end(), std::int64_t{0}), 24 * 4);
  EXPECT_GT(counts[0], counts[4]);
  EXPECT_EQ(counts[5] + counts[6], 0);
  EXPECT_THAT(outcome.text, HasSubstr("accuracy of the 5 most frequent sequences"));  // two are never drawn
}

TEST(OwnWeights, WithoutOwnSequencesRankThemToo) {
  const OwnData place(kMixed, false);
  const auto config = load_config(place.file(), {"data.file=null", "data.num_sequences=7", "data.length=6"}).config;
  EXPECT_EQ(table_of_phase(config, rank_law(config), 0).unpack_all(), SequenceTable::random(0, 0, 7, 6).unpack_all());
  const auto p = rank_law(config).sampler.probabilities();
  EXPECT_TRUE(std::is_sorted(p.rbegin(), p.rend()));
  EXPECT_DOUBLE_EQ(p[0], 8.0 / 22);
  EXPECT_EQ(rank_law(config).rows, kRows);
}

TEST(OwnWeights, NoneMeansThatARankIsItsRow) {
  const OwnData place(kMixed, false);
  ASSERT_EQ(place.train({"data.weights=null", "run=tiny"}).code, ExitCode::done);
  EXPECT_FALSE(fs::exists(place.run() / "data_rows.npy"));
  EXPECT_EQ(read_npy(place.run() / "sequences/phase_0.npy").bytes, read_npy(place.file().parent_path() / "bits.npy").bytes);
}

TEST(OwnWeights, ChangedBetweenStopAndResumeAreRefused) {
  const OwnData place(kMixed, false);
  ASSERT_EQ(place.train_until_poll(20).code, ExitCode::stopped);
  auto other = kMixed;
  other[2] = 9;  // the same order
  place.give(other);
  const auto refused = place.train();
  EXPECT_EQ(refused.code, ExitCode::config);
  EXPECT_THAT(refused.text, HasSubstr("weights.npy: the weights, or the ranks"));
  place.give(kMixed);
  EXPECT_EQ(place.train().code, ExitCode::done);
}

TEST(OwnWeights, ARunMadeWhenARankWasItsRowGoesOnOnlyWhereItStillIs) {
  for (const bool own_sequences : {true, false}) {
    std::vector<std::string> overrides{"run=tiny"};
    if (!own_sequences) overrides.insert(overrides.end(), {"data.file=null", "data.num_sequences=7", "data.length=6"});
    const OwnData falling(kFalling, true), mixed(kMixed, false);
    for (const auto* place : {&falling, &mixed}) {
      ASSERT_EQ(place->train_until_poll(20, overrides).code, ExitCode::stopped);
      place->forget_rows();
    }
    EXPECT_EQ(falling.train(overrides).code, ExitCode::done);
    EXPECT_EQ(mixed.train(overrides).code, ExitCode::config);
  }
}

TEST(OwnWeights, OfADoneRunMustGiveItsRanks) {
  const OwnData place(kMixed, false);
  ASSERT_EQ(place.train().code, ExitCode::done);
  const auto config = load_config(place.run() / "config.yaml", {}).config;
  check_ranks(place.run(), config, rank_law(config));
  const auto refuses = [&] {
    test::expect_error(ExitCode::data, "its ranks are not those that", [&] { check_ranks(place.run(), config, rank_law(config)); });
  };
  fs::remove(place.run() / "data_rows.npy");
  refuses();  // made by an older version, whose ranks are rows
  place.give(kFalling);
  check_ranks(place.run(), config, rank_law(config));
}

}  // namespace
}  // namespace mnemo
