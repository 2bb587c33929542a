#include "models/prefix_readout.h"

#include "core/adam.h"
#include "testing_models.h"

#include <gtest/gtest.h>

namespace mnemo {
namespace {

TEST(PrefixReadout, LogitsByLoops) {
  for (const std::string readout : {"shared", "per_position"}) {
    PrefixReadoutConfig config;
    config.features = 3;
    config.readout = readout;
    const std::int64_t L = 7;
    const auto model = lively_model(config, L, torch::kFloat64);
    const TestBatch data(SequenceTable::random(2, 0, 5, L));
    const auto logits = model->logits(data.rows_for(*model, Sharing::none)).view({5, L - 1});
    const auto A = model->parameters["A"][0], B = model->parameters["B"][0];
    for (std::int64_t b = 0; b < 5; ++b) {
      for (std::int64_t n = 1; n < L; ++n) {
        double logit = 0;
        for (std::int64_t k = 0; k < 3; ++k) {
          for (std::int64_t i = 0; i < n; ++i)
            logit += A[n][k][i].item<double>() * (data.table().bit(b, i) ? 1 : -1) * (readout == "shared" ? B[k] : B[n][k]).item<double>();
        }
        EXPECT_NEAR(logits[b][n - 1].item<double>(), logit, 1e-12);
      }
    }
  }
}

TEST(PrefixReadout, SeparableSequencesAreLearnt) {
  const std::vector<std::uint8_t> bits{0, 0, 0, 1, 1, 0, 1, 0, 1, 0};
  const TestBatch data(SequenceTable::from_array(view_of(bits.data(), {2, 5})));
  PrefixReadoutConfig config;
  const auto model = lively_model(config, 5, torch::kFloat64);
  Adam adam(model->parameters, {{1e-2, 0.9, 0.999, 1e-8, 0}});
  const auto finite = torch::ones({1}, torch::kUInt8);
  double loss = 0;
  for (int step = 0; step < 300; ++step) {
    loss = model->gradient(data.rows_for(*model)).loss_R.item<double>();
    adam.step(finite);
  }
  EXPECT_LT(loss, std::log(2.0) / 4 + 0.01);  // both begin with 0: their second bit, one of four, is a guess
}

}  // namespace
}  // namespace mnemo
