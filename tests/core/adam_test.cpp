#include "core/adam.h"

#include "test_device.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cmath>

namespace mnemo {
namespace {

using torch::Tensor;

std::vector<ParameterSpec> two_tensors() {
  return {{"a", "first", {3, 5}, ParameterSpec::Init::normal, 1.0}, {"b", "second", {7}, ParameterSpec::Init::normal, 1.0}};
}

Parameters make_parameters(std::int64_t replicas, torch::Dtype dtype) {
  Parameters parameters(two_tensors(), replicas, dtype, test_device());
  for (std::int64_t r = 0; r < replicas; ++r) parameters.initialize(r, static_cast<std::uint32_t>(r), two_tensors());
  return parameters;
}

void fill_gradient(Parameters& parameters, std::uint64_t seed) {
  torch::manual_seed(seed);
  for (std::size_t i = 0; i < parameters.specs().size(); ++i) {
    auto& gradient = parameters.leaf(i).mutable_grad();
    gradient.copy_(torch::randn(gradient.sizes(), torch::kFloat64));  // drawn on the host: the same on every device
  }
}

Tensor all_finite(std::int64_t replicas) { return torch::ones({replicas}, torch::TensorOptions().dtype(torch::kUInt8).device(test_device())); }

TEST(Adam, IsTorchsForEachReplicaWithItsOwnSettings) {
  for (const auto dtype : {torch::kFloat64, torch::kFloat32}) {
    auto parameters = make_parameters(2, dtype);
    const std::vector<AdamScalars> scalars{{1e-2, 0.9, 0.999, 1e-8, 0.0}, {3e-3, 0.8, 0.99, 1e-6, 0.1}};
    Adam adam(parameters, scalars);
    std::vector<Tensor> reference;
    std::vector<std::unique_ptr<torch::optim::Adam>> peers;
    for (std::int64_t r = 0; r < 2; ++r) {
      const auto& s = scalars[static_cast<std::size_t>(r)];
      for (std::size_t i = 0; i < 2; ++i) reference.push_back(parameters.leaf(i)[r].detach().clone().requires_grad_());
      peers.push_back(
          std::make_unique<torch::optim::Adam>(std::vector<Tensor>(reference.end() - 2, reference.end()),
                                               torch::optim::AdamOptions(s.lr).betas({s.beta1, s.beta2}).eps(s.eps).weight_decay(s.weight_decay)));
    }
    for (int step = 0; step < 50; ++step) {
      fill_gradient(parameters, static_cast<std::uint64_t>(step));
      for (std::size_t j = 0; j < 4; ++j) reference[j].mutable_grad() = parameters.leaf(j % 2).grad()[static_cast<std::int64_t>(j / 2)].clone();
      for (auto& peer : peers) peer->step();
      adam.step(all_finite(2));
    }
    for (std::size_t j = 0; j < 4; ++j) {
      const auto error = (reference[j] - parameters.leaf(j % 2)[static_cast<std::int64_t>(j / 2)]).abs().max().item<double>();
      EXPECT_LT(error, dtype == torch::kFloat64 ? 1e-13 : 2e-6);
    }
  }
}

TEST(Adam, DecoupledIsTorchsAdamW) {
  for (const auto dtype : {torch::kFloat64, torch::kFloat32}) {
    auto parameters = make_parameters(1, dtype);
    Adam adam(parameters, {{.lr = 1e-2, .beta1 = 0.9, .beta2 = 0.99, .eps = 1e-8, .weight_decay = 0.3, .decoupled = true}});
    std::vector<Tensor> reference;
    for (std::size_t i = 0; i < 2; ++i) reference.push_back(parameters.leaf(i)[0].detach().clone().requires_grad_());
    torch::optim::AdamW peer(reference, torch::optim::AdamWOptions(1e-2).betas({0.9, 0.99}).eps(1e-8).weight_decay(0.3));
    for (int step = 0; step < 50; ++step) {
      fill_gradient(parameters, static_cast<std::uint64_t>(step));
      for (std::size_t i = 0; i < 2; ++i) reference[i].mutable_grad() = parameters.leaf(i).grad()[0].clone();
      peer.step();
      adam.step(all_finite(1));
    }
    for (std::size_t i = 0; i < 2; ++i) {
      EXPECT_LT((reference[i] - parameters.leaf(i)[0]).abs().max().item<double>(), dtype == torch::kFloat64 ? 1e-13 : 2e-6);
    }
  }
}

TEST(LearningRate, GrowsLinearlyAndFallsAlongHalfACosine) {
  const AdamScalars constant{2e-3, 0.9, 0.999, 1e-8, 0};
  for (const std::int64_t n : {1, 2, 1000000}) EXPECT_EQ(learning_rate(constant, n), 2e-3);
  for (const std::int64_t steps : {1, 2, 7, 100}) {
    for (std::int64_t warmup = 0; warmup <= steps; ++warmup) {
      AdamScalars s = constant;
      s.warmup = warmup;
      for (const bool cosine : {false, true}) {
        s.cosine_steps = cosine ? steps : 0;
        for (std::int64_t n = 1; n <= steps; ++n) {
          const auto naive = [&]() -> long double {
            if (n <= warmup) return 2e-3L * n / warmup;
            return cosine ? 1e-3L * (1 + std::cos(std::acos(-1.0L) * (n - 1 - warmup) / (steps - warmup))) : 2e-3L;
          };
          EXPECT_NEAR(learning_rate(s, n), static_cast<double>(naive()), 1e-18) << n << " of " << steps << ", " << warmup;
          EXPECT_GT(learning_rate(s, n), 0);
        }
      }
    }
  }
}

/// Every operation rounds to float32: double ones would be another arithmetic than a GPU's, and several times slower.
TEST(Adam, OfFloat32IsFloat32Throughout) {
  auto parameters = make_parameters(1, torch::kFloat32);
  const AdamScalars s{1e-2, 0.9, 0.999, 1e-3, 0};
  Adam adam(parameters, {s});
  const AdamCoefficients<float> c(s, {s.lr, 1}, 1 - s.beta1, 1 - s.beta2);
  parameters.flat_RP().zero_();  // so that no digit of the change is lost
  fill_gradient(parameters, 1);
  const auto gradient = parameters.leaf(0).grad().cpu().flatten();
  adam.step(all_finite(1));
  const auto after = parameters.leaf(0).detach().cpu().flatten();
  for (std::int64_t i = 0; i < after.numel(); ++i) {
    const float g = gradient[i].item<float>();
    volatile float m = c.gain1 * g, v = c.gain2 * g;
    v = v * g;
    volatile float root = std::sqrt(v);
    root = root * c.inverse_sqrt_correction2;
    root = root + c.eps;
    volatile float change = c.step_size * m;
    change = change / root;
    const float expected = -change;
    if (test_device().is_cpu()) {
      EXPECT_EQ(after[i].item<float>(), expected);
    } else {
      EXPECT_NEAR(after[i].item<float>(), expected, 1e-8);  // a GPU fuses products with sums
    }
  }
}

TEST(Adam, LeavesFrozenTensorsAloneBitwiseAndGoesOnAfterwards) {
  auto parameters = make_parameters(1, torch::kFloat32);
  auto twin = make_parameters(1, torch::kFloat32);
  const std::vector<AdamScalars> scalars{{1e-2, 0.9, 0.999, 1e-8, 0.1}};
  Adam adam(parameters, scalars), twin_adam(twin, scalars);
  const auto one = all_finite(1);
  const auto both_step = [&](std::uint64_t seed) {
    fill_gradient(parameters, seed);
    adam.step(one);
  };
  for (std::uint64_t step = 0; step < 10; ++step) both_step(step);
  const auto frozen = parameters["a"].detach().clone(), moment = adam.first_moment_RP().clone(), moving = parameters["b"].detach().clone();
  parameters.set_frozen(0, 0, true);
  for (std::uint64_t step = 0; step < 1000; ++step) both_step(step);
  EXPECT_TRUE(torch::equal(frozen, parameters["a"]));
  EXPECT_TRUE(torch::equal(moment.slice(1, 0, 15), adam.first_moment_RP().slice(1, 0, 15)));
  EXPECT_FALSE(torch::equal(moving, parameters["b"]));
  EXPECT_EQ(adam.steps_RT()[0][0].item<std::int64_t>(), 10);
  EXPECT_EQ(adam.steps_RT()[0][1].item<std::int64_t>(), 1010);
  // after unfreezing, tensor a goes on as if the thousand steps had not been
  parameters.set_frozen(0, 0, false);
  for (std::uint64_t step = 0; step < 11; ++step) {
    if (step == 10) both_step(77);
    fill_gradient(twin, step == 10 ? 77 : step);
    twin_adam.step(one);
  }
  EXPECT_TRUE(torch::equal(twin["a"], parameters["a"]));
}

TEST(Adam, SkipsReplicas) {
  auto parameters = make_parameters(2, torch::kFloat64);
  Adam adam(parameters, {{1e-2, 0.9, 0.999, 1e-8, 0.0}, {1e-2, 0.9, 0.999, 1e-8, 0.0}});
  fill_gradient(parameters, 1);
  const auto before = parameters.flat_RP().clone();
  auto updates = all_finite(2);
  updates[1] = 0;
  adam.step(updates);
  EXPECT_FALSE(torch::equal(before[0], parameters.flat_RP()[0]));
  EXPECT_TRUE(torch::equal(before[1], parameters.flat_RP()[1]));
}

TEST(Adam, ResetForgetsMomentsAndSteps) {
  auto parameters = make_parameters(1, torch::kFloat32);
  Adam adam(parameters, {{1e-2, 0.9, 0.999, 1e-8, 0.0}});
  fill_gradient(parameters, 1);
  adam.step(all_finite(1));
  adam.reset(0, {1});
  EXPECT_EQ(adam.steps_RT()[0][0].item<std::int64_t>(), 1);
  EXPECT_EQ(adam.steps_RT()[0][1].item<std::int64_t>(), 0);
  const auto begin = parameters.offset(1);
  EXPECT_EQ(adam.second_moment_RP().slice(1, begin, begin + 7).abs().max().item<float>(), 0);
  EXPECT_GT(adam.second_moment_RP().slice(1, 0, 15).abs().max().item<float>(), 0);
}

}  // namespace
}  // namespace mnemo
