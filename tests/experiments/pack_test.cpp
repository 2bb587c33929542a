// Runs that share a pack leave what each leaves alone (DESIGN 1): bytes where the form steps row by row, 1e-6 where the plain
// composition steps all rows at once.

#include "experiments/run/pack.h"

#include "core/npy.h"
#include "experiments/run/worker.h"
#include "test_device.h"
#include "tests/experiments/place.h"

#include <fmt/format.h>
#include <sys/wait.h>
#include <torch/torch.h>
#include <unistd.h>

#include <csignal>

namespace mnemo {
namespace {

using test::expect_same;
using test::Place;
using test::results;
using ::testing::HasSubstr;

std::string tiny(const std::string& model, const std::string& events) {
  return "name: tiny\nthreads: 1\ndevice: " + test_device_name() +
         "\ndata:  {num_sequences: 12, length: 6}\n"
         "model: " +
         model +
         "\n"
         "train: {steps: 24, batch_size: 4, lr: 1.0e-2, log_every: 5}\n"
         "eval:  {every: 6, train_stride: 3, novel: 3}\n"
         "events:\n" +
         events;
}

std::string all_events(const std::string& group) {
  return fmt::format(
      "  - {{kind: freeze, at: 6, params: [{0}]}}\n"
      "  - {{kind: snapshot, at: 12, name: before}}\n"
      "  - {{kind: switch, at: 12}}\n"
      "  - {{kind: unfreeze, at: 12, params: [{0}]}}\n"
      "  - {{kind: fork_probe, at: 18, sequences: 4, until: 0.99, max_steps: 20}}\n"
      "  - {{kind: swap_test, at: end, params: [{0}], from: before, on: [phase_0]}}\n"
      "  - {{kind: transplant, at: end, from: before, stride: 3}}\n",
      group);
}

/// Members that differ in everything that members may differ in.
const std::vector<std::vector<std::string>> kMembers{{"run=a", "seed=1"},
                                                     {"run=b", "seed=2", "train.lr=0.003", "data.zipf_exponent=0.5"},
                                                     {"run=c", "seed=3", "train.betas=[0.8, 0.99]", "train.eps=1e-6"},
                                                     {"run=d", "seed=4", "train.weight_decay=0.1", "model.init_std=0.2"},
                                                     {"run=e", "seed=5", "train.weight_decay=0.1", "train.decay=decoupled", "train.clip_norm=0.01"},
                                                     {"run=f", "seed=6", "train.schedule=cosine", "train.warmup=7", "train.clip_norm=1e3"}};

fs::path directory(const Place& place, const std::vector<std::string>& overrides) { return place.cache() / "tiny" / overrides[0].substr(4); }

/// One worker that takes all of them.
std::vector<MemberResult> session(const Place& place, const std::vector<std::vector<std::string>>& members, std::function<bool()> stop = {}) {
  std::vector<Member> list;
  for (const auto& overrides : members) list.push_back({load_config(place.file(), overrides), directory(place, overrides)});
  Host host;
  host.progress = ProgressStyle::none;
  host.log = Log(LogLevel::error);
  host.stop = std::move(stop);
  return carry_out(std::move(list), host);
}

fs::path alone(const Place& place, const std::vector<std::string>& overrides, ExitCode code = ExitCode::done) {
  const auto outcome = place.train(overrides);
  EXPECT_EQ(outcome.code, code) << outcome.text;
  return directory(place, overrides);
}

void expect_near_losses(const fs::path& run, const fs::path& other_run, const std::string& set) {
  const auto losses = [&](const fs::path& of) { return read_npy(of / "eval" / set / "loss.npy"); };
  const auto one = losses(run), other = losses(other_run);
  ASSERT_EQ(one.shape, other.shape);
  for (std::size_t i = 0; i < one.view().as<float>().size(); ++i) EXPECT_NEAR(one.view().as<float>()[i], other.view().as<float>()[i], 1e-6);
}

ExitCode code_of(const MemberResult& result) {
  if (!result.error) return result.code;
  try {
    std::rethrow_exception(result.error);
  } catch (const Error& error) {
    return error.code();
  } catch (const std::exception& error) {
    ADD_FAILURE() << error.what();
    return ExitCode::bug;
  }
}

struct Form {
  const char* model;
  const char* group;
};
constexpr Form kRowByRow[] = {{"{kind: one_layer_attention, heads: 1, head_dim: 4, mlp_layers: 2}", "c_attn"},
                              {"{kind: dam, heads: 3, capacity: 30}", "A"}};
constexpr Form kGpt = {"{kind: gpt, layers: 2, heads: 1, head_dim: 4, position: rope}", "mlp"};  // row by row on the CPU, at once on a GPU
constexpr Form kAtOnce[] = {{"{kind: one_layer_attention, heads: 1, head_dim: 4, mlp_layers: 2, attention: dense}", "c_attn"},
                            {"{kind: prefix_readout, features: 3}", "A"}};

TEST(Pack, MembersLeaveTheBytesOfRunsAlone) {
  std::vector<Form> forms(std::begin(kRowByRow), std::end(kRowByRow));
  if (test_device().is_cpu()) forms.push_back(kGpt);
  for (const auto& form : forms) {
    SCOPED_TRACE(form.model);
    const auto config = tiny(form.model, all_events(form.group));
    const Place together(config), apart(config);
    for (const auto& outcome : session(together, kMembers)) EXPECT_EQ(code_of(outcome), ExitCode::done);
    for (const auto& overrides : kMembers) {
      SCOPED_TRACE(overrides[0]);
      expect_same(results(directory(together, overrides)), results(alone(apart, overrides)));
    }
  }
}

TEST(Pack, MembersOfThePlainCompositionAgreeWithRunsAlone) {
  for (const auto& form : {kAtOnce[0], kAtOnce[1], kGpt}) {
    SCOPED_TRACE(form.model);
    const auto config = tiny(form.model, all_events(form.group)) + "precision: fp64\n";
    const Place together(config), apart(config);
    for (const auto& outcome : session(together, kMembers)) EXPECT_EQ(code_of(outcome), ExitCode::done);
    for (const auto& overrides : kMembers) {
      const auto by_itself = alone(apart, overrides);
      for (const char* set : {"train", "phase_0", "phase_1", "novel", "swap_test.phase_0"}) {
        expect_near_losses(directory(together, overrides), by_itself, set);
      }
    }
  }
}

TEST(Pack, AMemberThatDivergesLeavesAlone) {
  // on the way its attention grows too sharp for the fast form, which must go on for the others
  const auto config = tiny(kRowByRow[0].model, all_events("c_attn"));
  const Place together(config), apart(config);
  auto members = kMembers;
  members[1].push_back("train.lr=1e9");
  const auto outcomes = session(together, members);
  for (std::size_t i = 0; i < members.size(); ++i) {
    SCOPED_TRACE(members[i][0]);
    EXPECT_EQ(code_of(outcomes[i]), i == 1 ? ExitCode::diverged : ExitCode::done);
    const auto run = directory(together, members[i]);
    if (i == 1) {
      EXPECT_EQ(nlohmann::json::parse(test::slurp(run / "status.json")).at("state"), "diverged");
    } else {
      expect_same(results(run), results(alone(apart, members[i])));
    }
  }
}

TEST(Pack, StoppedAnywhereItGoesOnToTheSameBytes) {
  const auto config = tiny(kRowByRow[0].model, all_events("c_attn"));
  const Place apart(config);
  std::vector<std::map<std::string, std::string>> expected;
  for (const auto& overrides : kMembers) expected.push_back(results(alone(apart, overrides)));
  for (const std::int64_t stop_at : {40, 90, 170, 260}) {
    SCOPED_TRACE(stop_at);
    const Place together(config);
    std::int64_t polls = 0;
    const auto outcomes = session(together, kMembers, [&] { return ++polls >= stop_at; });
    for (const auto& outcome : outcomes) EXPECT_EQ(code_of(outcome), ExitCode::stopped);
    for (const auto& outcome : session(together, kMembers)) EXPECT_EQ(code_of(outcome), ExitCode::done);
    for (std::size_t i = 0; i < kMembers.size(); ++i) {
      SCOPED_TRACE(kMembers[i][0]);
      expect_same(results(directory(together, kMembers[i])), expected[i]);
    }
  }
}

/// What a crash may leave: members whose newest checkpoints are of different steps, or who have none.
TEST(Pack, MembersAtDifferentStepsWaitForTheSlowest) {
  for (const auto& form : {kRowByRow[0], kRowByRow[1], kAtOnce[0]}) {
    SCOPED_TRACE(form.model);
    const auto config = tiny(form.model, all_events(form.group)) + "precision: fp64\n";
    const Place together(config), apart(config);
    std::int64_t stop_at = 30;
    for (const auto& overrides : {kMembers[0], kMembers[2]}) {  // runs that went on alone for a while
      std::int64_t polls = 0;
      EXPECT_EQ(code_of(session(together, {overrides}, [&] { return ++polls >= stop_at; })[0]), ExitCode::stopped);
      stop_at = 75;
    }
    for (const auto& result : session(together, kMembers)) EXPECT_EQ(code_of(result), ExitCode::done);
    for (const auto& overrides : kMembers) {
      SCOPED_TRACE(overrides[0]);
      const auto by_itself = alone(apart, overrides);
      if (form.model != kAtOnce[0].model) expect_same(results(directory(together, overrides)), results(by_itself));
      expect_near_losses(directory(together, overrides), by_itself, "phase_1");
    }
  }
}

TEST(Pack, AMemberThatCannotBeOpenedIsLeftOut) {
  const auto config = tiny(kRowByRow[0].model, all_events("c_attn"));
  const Place together(config), apart(config);
  const DirectoryLock held(directory(together, kMembers[1]));
  ASSERT_EQ(code_of(session(together, {kMembers[0]})[0]), ExitCode::done);
  fs::remove_all(directory(together, kMembers[0]) / "checkpoints");
  fs::remove(directory(together, kMembers[0]) / "final.safetensors");  // it has results, and nothing to go on from
  const auto members = session(together, kMembers);
  EXPECT_EQ(code_of(members[0]), ExitCode::data);
  EXPECT_EQ(code_of(members[1]), ExitCode::locked);
  for (const std::size_t i : {2, 3}) {
    EXPECT_EQ(code_of(members[i]), ExitCode::done);
    expect_same(results(directory(together, kMembers[i])), results(alone(apart, kMembers[i])));
  }
}

TEST(Pack, KilledAnywhereItGoesOnToTheSameBytes) {
  const auto config = tiny(kRowByRow[0].model, all_events("c_attn")) + "output: {checkpoint_minutes: 1.0e-9}\n";
  const Place apart(config);
  for (const std::int64_t kill_at : {30, 110, 200}) {
    SCOPED_TRACE(kill_at);
    const Place together(config);
    const auto child = ::fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      std::int64_t polls = 0;
      session(together, kMembers, [&] {
        if (++polls >= kill_at) ::raise(SIGKILL);
        return false;
      });
      ::_exit(1);
    }
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    ASSERT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    for (const auto& result : session(together, kMembers)) EXPECT_EQ(code_of(result), ExitCode::done);
    for (const auto& overrides : kMembers) {
      SCOPED_TRACE(overrides[0]);
      expect_same(results(directory(together, overrides)), results(alone(apart, overrides)));
    }
  }
}

TEST(Pack, RefusesRunsOfAnotherShapeOrSchedule) {
  const Place place(tiny(kRowByRow[0].model, "  []\n"));
  const auto refusal = [&](const std::vector<std::string>& overrides) -> std::string {
    const std::vector<RunConfig> configs{load_config(place.file(), {"run=a"}).config, load_config(place.file(), overrides).config};
    try {
      Pack{configs};
    } catch (const Error& error) {
      return error.what();
    }
    return "accepted";
  };
  EXPECT_THAT(refusal({"run=b", "train.steps=30"}), HasSubstr("train.steps: 24, 30"));
  EXPECT_THAT(refusal({"run=b", "model.heads=2", "model.head_dim=2"}), HasSubstr("model.heads: 1, 2"));
  EXPECT_THAT(refusal({"run=b", "events=[{kind: snapshot, at: 3}]"}), HasSubstr("events"));
  EXPECT_EQ(refusal({"run=b", "train.lr=0.5", "seed=7"}), "accepted");
}

}  // namespace
}  // namespace mnemo
