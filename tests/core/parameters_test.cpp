#include "core/parameters.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

namespace mnemo {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

const std::vector<ParameterSpec> kSpecs{{"wte.weight", "embeddings", {2, 3}},
                                        {"mlp.0.weight", "mlp", {3, 3}},
                                        {"mlp.0.bias", "mlp", {3}, ParameterSpec::Init::ones},
                                        {"mlp.1.weight", "mlp", {3, 3}}};

TEST(Parameters, PatternsAreGroupsNamesAndStars) {
  EXPECT_THAT(matching_parameters(kSpecs, "mlp"), ElementsAre(1, 2, 3));
  EXPECT_THAT(matching_parameters(kSpecs, "wte.weight"), ElementsAre(0));
  EXPECT_THAT(matching_parameters(kSpecs, "mlp.*.weight"), ElementsAre(1, 3));
  EXPECT_THAT(matching_parameters(kSpecs, "*"), ElementsAre(0, 1, 2, 3));
  EXPECT_THAT(matching_parameters(kSpecs, "*.0.*"), ElementsAre(1, 2));
  EXPECT_THAT(matching_parameters(kSpecs, "ml"), IsEmpty());
  EXPECT_THAT(matching_parameters(kSpecs, ""), IsEmpty());
  EXPECT_THAT(parameter_groups(kSpecs), ElementsAre("embeddings", "mlp"));
}

TEST(Parameters, LeavesAndGradientsViewOneBufferAtMultiplesOf64Bytes) {
  for (const auto dtype : {torch::kFloat32, torch::kFloat64}) {
    Parameters parameters(kSpecs, 3, dtype, torch::kCPU);
    for (std::size_t i = 0; i < kSpecs.size(); ++i) {
      EXPECT_EQ(static_cast<std::size_t>(parameters.offset(i)) * torch::elementSize(dtype) % 64, 0u);
      parameters.leaf(i).detach().fill_(static_cast<double>(i + 1));
      EXPECT_EQ(parameters.flat_RP()[2][parameters.offset(i)].item<double>(), static_cast<double>(i + 1));
      EXPECT_TRUE(parameters.leaf(i).is_leaf() && parameters.leaf(i).requires_grad());
    }
    (parameters["mlp.0.weight"] * 2).sum().backward();
    EXPECT_EQ(parameters.gradient_RP()[1][parameters.offset(1)].item<double>(), 2);
    parameters.zero_gradient();
    (parameters["mlp.0.weight"] * 3).sum().backward();  // into the same buffer, not a new one
    EXPECT_EQ(parameters.gradient_RP()[1][parameters.offset(1)].item<double>(), 3);
    EXPECT_THROW(parameters["none"], std::out_of_range);
  }
}

TEST(Parameters, InitialValuesDependOnSeedAndNameAlone) {
  Parameters pack(kSpecs, 2, torch::kFloat64, torch::kCPU), alone({kSpecs[3]}, 1, torch::kFloat32, torch::kCPU);
  pack.initialize(0, 8, kSpecs);
  pack.initialize(1, 9, kSpecs);
  alone.initialize(0, 9, {kSpecs[3]});
  EXPECT_TRUE(torch::equal(pack["mlp.1.weight"][1].to(torch::kFloat32), alone["mlp.1.weight"][0]));
  EXPECT_FALSE(torch::equal(pack["mlp.1.weight"][0], pack["mlp.1.weight"][1]));
  EXPECT_TRUE((pack["mlp.0.bias"] == 1).all().item<bool>());
}

}  // namespace
}  // namespace mnemo
