// Whole runs on the far device: what they leave is what the CPU's plain form leaves, and what goes wrong on a GPU is seen, and named.

#include "far_device.h"

#include "core/device.h"
#include "core/npy.h"
#include "core/safetensors.h"
#include "experiments/run/pack.h"
#include "experiments/run/run.h"
#include "tests/experiments/place.h"

#include <fmt/format.h>
#include <torch/torch.h>

#include <cmath>

namespace mnemo {
namespace {

using test::Place;
using test::results;
using test::slurp;
using ::testing::HasSubstr;
using ::testing::Not;

struct Form {
  std::string model, group;
  double tolerance;  // of float32 sums in another order
  std::string eval = "", events = "";
};

const std::vector<Form> kForms{{"{kind: one_layer_attention, heads: 2, head_dim: 4, mlp_layers: 2, attention: dense}", "c_attn", 1e-4,
                                ", attention: [vertical_bars, decorrelation, attn_reps], by_position: true, completion: {prefix: 3}",
                                "  - {kind: features, at: 18, sequences: 5, stride: 2}\n"},
                               {"{kind: one_layer_attention, heads: 1, head_dim: 1, mlp_layers: 3, attention: dense}", "c_attn", 1e-4},
                               {"{kind: dam, heads: 3, capacity: 30}", "A", 2e-5, ", by_position: true, completion: {prefix: 3}"},
                               {"{kind: dam, heads: 3, positions: from_0, probabilities: clamped}", "A", 2e-5},
                               {"{kind: dam, heads: 3, objective: retrieval}", "A", 2e-5},
                               {"{kind: prefix_readout, features: 3}", "A", 2e-5},
                               {"{kind: prefix_readout, features: 3, readout: per_position}", "A", 2e-5},
                               {"{kind: one_layer_attention, heads: 2, head_dim: 4, mlp_layers: 2}", "c_attn", 1e-4},
                               {"{kind: gpt, layers: 2, heads: 2, head_dim: 4}", "c_proj", 1e-4,
                                ", attention: [vertical_bars, decorrelation, attn_reps], by_position: true, completion: {prefix: 3}",
                                "  - {kind: features, at: 18, sequences: 5, stride: 2}\n"},
                               {"{kind: gpt, layers: 2, heads: 2, head_dim: 4, position: rope}", "ln", 1e-4},
                               {"{kind: one_layer_attention, heads: 3, head_dim: 5, mlp_layers: 3, mlp_width: 9}", "mlp", 1e-4}};

std::string tiny(const Form& form) {
  return fmt::format(
      "name: tiny\nthreads: 1\ndevice: cpu\n"
      "data:  {{num_sequences: 12, length: 6}}\n"
      "model: {0}\n"
      "train: {{steps: 24, batch_size: 4, lr: 1.0e-2, log_every: 5}}\n"
      "eval:  {{every: 6, train_stride: 3, novel: 3{1}}}\n"
      "events:\n"
      "  - {{kind: freeze, at: 6, params: [{2}]}}\n"
      "  - {{kind: snapshot, at: 12, name: before}}\n"
      "  - {{kind: switch, at: 12, reset_optimizer: true}}\n"
      "  - {{kind: unfreeze, at: 12, params: [{2}]}}\n"
      "  - {{kind: fork_probe, at: 18, freeze: [{2}], sequences: 4, until: 0.99, max_steps: 20}}\n"
      "  - {{kind: swap_test, at: end, params: [{2}], from: before, on: [phase_0]}}\n"
      "  - {{kind: transplant, at: end, from: before}}\n{3}",
      form.model, form.eval, form.group, form.events);
}

/// A run that trains and logs, and has no other reason to wait for its device.
std::string plain(const std::string& events = "  []\n") {
  return "name: tiny\nthreads: 1\ndevice: cuda:1\n"
         "data:  {num_sequences: 12, length: 6}\n"
         "model: {kind: one_layer_attention, heads: 1, head_dim: 4, mlp_layers: 1}\n"
         "train: {steps: 24, batch_size: 4, lr: 1.0e-2, log_every: 1000}\n"
         "eval:  {every: 1000, train_stride: 3}\n"
         "events:\n" +
         events;
}

// ---- the same results

bool near(double a, double b, double tolerance) {
  return a == b || (std::isnan(a) && std::isnan(b)) || std::abs(a - b) <= tolerance * std::max({1.0, std::abs(a), std::abs(b)});
}

void expect_near(const ArrayView& actual, const ArrayView& expected, double tolerance) {
  ASSERT_EQ(actual.dtype, expected.dtype);
  ASSERT_EQ(actual.shape, expected.shape);
  const auto compare = [&]<class Real>() {
    const auto a = actual.as<Real>(), b = expected.as<Real>();
    for (std::size_t i = 0; i < a.size(); ++i) ASSERT_TRUE(near(a[i], b[i], tolerance)) << "element " << i << ": " << a[i] << ", " << b[i];
  };
  if (actual.dtype == Dtype::f32)
    compare.operator()<float>();
  else if (actual.dtype == Dtype::f64)
    compare.operator()<double>();
  else
    EXPECT_EQ(actual.as_bytes(), expected.as_bytes());
}

/// Texts that are equal but for their numbers, which are near.
void expect_near(const std::string& actual, const std::string& expected, double tolerance) {
  const char *a = actual.c_str(), *b = expected.c_str();
  while (*a != '\0' && *b != '\0') {
    char *after_a = nullptr, *after_b = nullptr;
    const double x = std::strtod(a, &after_a), y = std::strtod(b, &after_b);
    const bool are_numbers = after_a != a && after_b != b;
    ASSERT_TRUE(are_numbers ? near(x, y, tolerance) : *a == *b) << a << "\nis expected to be\n" << b;
    a = are_numbers ? after_a : a + 1;
    b = are_numbers ? after_b : b + 1;
  }
  EXPECT_EQ(*a, *b);
}

/// Everything that two runs left, but for their settings, which name the device.
void expect_near(const fs::path& actual, const fs::path& expected, double tolerance) {
  const auto files = results(expected), made = results(actual);
  EXPECT_EQ(files.size(), made.size());
  for (const auto& [name, bytes] : files) {
    if (name == "config.yaml" || name == "run.json") continue;
    SCOPED_TRACE(name);
    ASSERT_TRUE(made.contains(name));
    if (tolerance == 0) {
      EXPECT_TRUE(made.at(name) == bytes);
    } else if (name.ends_with(".npy")) {
      expect_near(read_npy(actual / name).view(), read_npy(expected / name).view(), tolerance);
    } else if (name == "end" || name.ends_with(".safetensors")) {
      const auto path = [&](const fs::path& run) { return name == "end" ? run / "checkpoints/step_24.0.safetensors" : run / name; };
      const auto one = Safetensors::read(path(actual)), other = Safetensors::read(path(expected));
      ASSERT_EQ(one.tensors().size(), other.tensors().size());
      for (const auto& [tensor, view] : other.tensors()) {
        SCOPED_TRACE(tensor);
        if (tensor.ends_with("c_attn.bias")) continue;  // of keys the gradient is 0 but for rounding, which Adam makes large (MATHS 8)
        expect_near(one.at(tensor), view, tolerance);
      }
    } else {
      expect_near(made.at(name), bytes, tolerance);
    }
  }
}

TEST(FarRun, LeavesWhatThePlainFormOfTheCpuLeaves) {
  for (const auto& form : kForms) {
    SCOPED_TRACE(form.model);
    const Place on_cpu(tiny(form));
    const auto plain_form = on_cpu.train();
    ASSERT_EQ(plain_form.code, ExitCode::done) << plain_form.text;
    for (const char* device : {"cuda:0", "cuda:1"}) {
      SCOPED_TRACE(device);
      const Place place(tiny(form));
      const auto outcome = place.train({fmt::format("device={}", device)});
      ASSERT_EQ(outcome.code, ExitCode::done) << outcome.text;
      EXPECT_THAT(outcome.text, HasSubstr(fmt::format("on far:{}", device[5])));
      expect_near(place.run(), on_cpu.run(), form.tolerance);
    }
  }
}

TEST(FarRun, StoppedAnywhereItGoesOnToTheSameBytes) {
  for (const std::size_t i : {0, 2, 4, 7, 8}) {
    SCOPED_TRACE(kForms[i].model);
    const Place whole(tiny(kForms[i]));
    ASSERT_EQ(whole.train({"device=cuda:1"}).code, ExitCode::done);
    for (const std::int64_t poll : {8, 45, 71}) {
      SCOPED_TRACE(poll);
      const Place place(tiny(kForms[i]));
      ASSERT_EQ(place.train_until_poll(poll, {"device=cuda:1"}).code, ExitCode::stopped);
      const auto outcome = place.train({"device=cuda:1"});
      ASSERT_EQ(outcome.code, ExitCode::done) << outcome.text;
      EXPECT_THAT(outcome.text, HasSubstr("resumed at step"));
      expect_near(place.run(), whole.run(), 0);
    }
  }
}

TEST(FarRun, GoesOnOnAnotherDevice) {
  const Place whole(tiny(kForms[0])), place(tiny(kForms[0]));
  ASSERT_EQ(whole.train({"device=cuda:0"}).code, ExitCode::done);
  ASSERT_EQ(place.train_until_poll(45, {"device=cuda:0"}).code, ExitCode::stopped);
  const auto outcome = place.train({"device=cuda:1"});
  ASSERT_EQ(outcome.code, ExitCode::done) << outcome.text;
  EXPECT_THAT(outcome.text, HasSubstr("resumed with another gpu (\"far device 0\" before, \"far device 1\" now)"));
  expect_near(place.run(), whole.run(), 0);
}

// ---- what a GPU would not do

TEST(FarRun, OfTheSecondGpuTakesNothingOnTheFirst) {
  const auto before = far::buffers_taken(0);
  const Place place(tiny(kForms[0]));
  choose_device("cuda:0");  // some other run of this process
  ASSERT_EQ(place.train({"device=cuda:1"}).code, ExitCode::done);
  EXPECT_EQ(far::buffers_taken(0), before);
}

TEST(FarRun, WaitsAtLogLinesAndActionsAlone) {
  const auto waits = [](const std::string& config, const std::string& override) {
    const Place place(config);
    const auto before = far::counts()[far::wait];
    EXPECT_EQ(place.train({override, "run=tiny"}).code, ExitCode::done);
    return far::counts()[far::wait] - before;
  };
  EXPECT_EQ(waits(plain(), "train.steps=20"), waits(plain(), "train.steps=220"));
  const auto probe = plain("  - {kind: fork_probe, at: 12, sequences: 4, until: 0.999, max_steps: 64}\n");
  const auto of_a_chunk = waits(probe, "events.0.max_steps=128") - waits(probe, "events.0.max_steps=64");
  EXPECT_GT(of_a_chunk, 0);
  EXPECT_LE(of_a_chunk, 2);  // what the batches scored, and whether all was finite
}

TEST(FarRun, SeesDivergenceBeforeItWritesAnything) {
  const auto config = tiny({"{kind: one_layer_attention, heads: 1, head_dim: 4, mlp_layers: 2, attention: dense}", "c_attn", 0});
  const std::vector<std::string> divergent{"train.lr=1e9", "train.log_every=1000", "run=tiny"};
  const Place on_cpu(config), place(config);
  ASSERT_EQ(on_cpu.train(divergent).code, ExitCode::diverged);
  auto on_far = divergent;
  on_far.push_back("device=cuda:1");
  const auto outcome = place.train(on_far);
  ASSERT_EQ(outcome.code, ExitCode::diverged) << outcome.text;
  const auto step = on_cpu.status().at("step").get<std::int64_t>();
  EXPECT_LT(step, 6);  // the first evaluation after it
  EXPECT_EQ(place.status().at("step"), step);
  EXPECT_EQ(place.status().at("state"), "diverged");
  EXPECT_THAT(outcome.text, HasSubstr(fmt::format("not finite after step {};", step)));
  const auto files = [](const Place& of) {
    std::map<std::string, std::string> found;
    for (const auto& entry : fs::recursive_directory_iterator(of.run())) {
      const auto name = fs::relative(entry.path(), of.run());
      if (entry.is_regular_file() && !test::is_record_of_the_process(name) && name != "config.yaml" && name != "run.json")
        found[name.string()] = slurp(entry.path());
    }
    return found;
  };
  test::expect_same(files(place), files(on_cpu));
}

TEST(FarRun, NamesAnUnsuitableGpu) {
  const Place place(plain());
  const auto missing = place.train({"device=cuda:7"});
  EXPECT_EQ(missing.code, ExitCode::resources);
  EXPECT_THAT(missing.text, HasSubstr("device cuda:7: this machine has 2 GPUs"));
  far::refuse_kernels("Tesla T4 (compute capability 7.5) does not run this build: no kernel image is available for execution on the device");
  const auto named = place.train({"device=cuda:0"}), automatic = place.train({"device=auto"});
  far::refuse_kernels({});
  EXPECT_EQ(named.code, ExitCode::resources);
  EXPECT_THAT(named.text, HasSubstr("device cuda:0: Tesla T4 (compute capability 7.5) does not run this build"));
  EXPECT_EQ(automatic.code, ExitCode::done);
  EXPECT_THAT(automatic.text, HasSubstr("on cpu"));
}

TEST(FarRun, ABrokenGpuEndsItWithItsNameAndSizes) {
  const Place place(plain());
  far::break_at_op(60);
  const auto outcome = place.train();
  EXPECT_EQ(outcome.code, ExitCode::resources) << outcome.text;
  EXPECT_THAT(outcome.text,
              HasSubstr("device far:1 (far device 1): CUDA error: an illegal memory access was encountered with 12 sequences of 6 bits, batch 4, "));
  EXPECT_THAT(outcome.text, Not(HasSubstr("frame #")));
  const auto again = place.train();
  EXPECT_EQ(again.code, ExitCode::done) << again.text;
}

// ---- the choice

TEST(Device, AutoTakesAGpuWhereAStepIsWorthIt) {
  EXPECT_TRUE(choose_device("auto", 0.9 * kGpuWorthMilliseconds).device.is_cpu());
  EXPECT_EQ(choose_device("auto", 1.1 * kGpuWorthMilliseconds).device, torch::Device("far:0"));
  EXPECT_EQ(choose_device("cuda:1", 0.1).device, torch::Device("far:1"));  // a device that is named is taken
  EXPECT_TRUE(choose_device("cpu").device.is_cpu());
  const Place place(plain());
  const auto outcome = place.train({"device=auto"});
  EXPECT_THAT(outcome.text, HasSubstr("on cpu (a step takes the CPU about "));
  const auto large =
      load_config(place.file(), {"device=auto", "data.length=100", "train.batch_size=256", "model.head_dim=64", "data.num_sequences=1000"}).config;
  const Pack pack({&large, 1});
  EXPECT_EQ(pack.device().device, torch::Device("far:0"));
  EXPECT_THAT(pack.device().reason, HasSubstr("a step takes the CPU about"));
}

TEST(Device, MultipliesFloatsInFullWhateverTheEnvironmentSays) {
  at::globalContext().setFloat32MatmulPrecision("high");  // what TORCH_ALLOW_TF32_CUBLAS_OVERRIDE=1 does
  at::globalContext().setAllowTF32CuDNN(true);
  ASSERT_TRUE(at::globalContext().allowTF32CuBLAS());
  choose_device("cuda:0");
  EXPECT_FALSE(at::globalContext().allowTF32CuBLAS());
  EXPECT_FALSE(at::globalContext().allowTF32CuDNN());
}

TEST(Device, HasAName) {
  EXPECT_EQ(device_name(torch::Device("far:1")), "far device 1");
  EXPECT_FALSE(device_name(torch::kCPU).empty());
}

}  // namespace
}  // namespace mnemo
