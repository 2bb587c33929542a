#include "models/prefix_readout.h"

#include "models/model.h"

#include <fmt/format.h>
#include <torch/torch.h>

// Shapes: R replicas, U rows, L bits, N cells, d features.

namespace mnemo {

double PrefixReadoutConfig::nanoseconds_of_prediction(std::int64_t length, std::int64_t) const {
  return 100 + static_cast<double>(features) * static_cast<double>(length) / 10;
}

std::vector<std::pair<std::string, std::string>> PrefixReadoutConfig::problems(std::int64_t length) const {
  const double parameters = static_cast<double>(length) * static_cast<double>(length) * static_cast<double>(features);
  std::vector<std::pair<std::string, std::string>> found;
  if (const auto what = too_many_parameters(parameters); !what.empty()) found.emplace_back("features", what);
  return found;
}

ModelFacts facts_of(const PrefixReadoutConfig& config, std::int64_t length) {
  const auto normal = ParameterSpec::Init::normal;
  const auto d = config.features;
  const auto readout = config.readout == "shared" ? std::vector{d} : std::vector{length, d};
  ModelFacts facts;
  facts.text = fmt::format("{} features, {} readout", d, config.readout);
  facts.parameters = {{"A", "A", {length, d, length}, normal, config.init_std}, {"B", "B", readout, normal, config.init_std}};
  return facts;
}

namespace {

/// MATHS 5: v_n = sum_{i<n} A^(n)_i xi_i in R^d with xi = +-1 and A free; logit of bit n = v_n.B. Linear in the prefix for each n: a baseline.
class PrefixReadout final : public Model {
 public:
  PrefixReadout(const PrefixReadoutConfig& config, ModelFacts f, Parameters p) : Model(std::move(f), std::move(p)), config_(config) {}

  std::unique_ptr<Model> replica(std::int64_t r) const override { return std::make_unique<PrefixReadout>(config_, facts, parameters.replica(r)); }

  torch::Tensor logits(const CellBatch& batch) override;

 private:
  PrefixReadoutConfig config_;
};

}  // namespace

std::unique_ptr<Model> construct(const std::vector<PrefixReadoutConfig>& replicas, ModelFacts facts, Parameters parameters) {
  return std::make_unique<PrefixReadout>(replicas[0], std::move(facts), std::move(parameters));
}

torch::Tensor PrefixReadout::logits(const CellBatch& batch) {
  const auto& [bits_RUL, cell_RN, weight_RN2] = batch.tensors();
  const auto R = batch.num_replicas(), U = batch.num_rows(), L = batch.length(), d = config_.features;
  const auto& A_RLdL = parameters["A"];
  const auto used = torch::ones({L, L}, A_RLdL.options().dtype(torch::kBool).requires_grad(false)).tril(-1).unsqueeze(1);  // i < n
  const auto xi_RUL = 2 * bits_RUL.to(A_RLdL.dtype()) - 1;
  const auto v_RULd = torch::matmul(xi_RUL, A_RLdL.masked_fill(~used, 0).view({R, L * d, L}).transpose(1, 2)).view({R, U, L, d});
  const auto B = config_.readout == "shared" ? parameters["B"].view({R, 1, 1, d}) : parameters["B"].unsqueeze(1);
  const auto logits_RUP = (v_RULd * B).sum(3).slice(2, batch.first_predicted_bit());
  return logits_RUP.reshape({R, U * batch.num_positions()}).gather(1, cell_RN);
}

}  // namespace mnemo
