#pragma once

// A golden case of a transformer, of any kind.

#include "core/adam.h"
#include "core/batches.h"
#include "golden.h"
#include "models/make_model.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <algorithm>

namespace mnemo {

/// Everything that a golden case of a transformer says: logits, losses, gradients, and five steps of Adam.
inline void expect_golden_case(const nlohmann::json& golden, const ModelConfig& config, const Forms& forms = {}) {
  SCOPED_TRACE(golden.at("name").get<std::string>());
  const auto file = read_golden(golden);
  const auto length = golden.at("L").get<std::int64_t>();
  const auto model = make_model({&config, 1}, length, torch::kFloat64, torch::kCPU);
  model->forms = forms;
  auto& parameters = model->parameters;
  const auto leaf_values = [&](const torch::Tensor& leaf) { return std::span(leaf.data_ptr<double>(), static_cast<std::size_t>(leaf.numel())); };
  for (std::size_t i = 0; i < parameters.specs().size(); ++i) {
    const auto weight = file.get<double>("weight." + parameters.specs()[i].name, parameters.specs()[i].size());
    std::copy(weight.begin(), weight.end(), parameters.leaf(i).data_ptr<double>());
  }

  const auto table = SequenceTable::from_array(file.at("bits"));
  const auto row_weight = file.get<double>("row_weight");
  std::vector<std::int32_t> rows(table.order().begin(), table.order().end());
  std::vector<double> sorted_weight;
  for (const auto rank : rows) sorted_weight.push_back(row_weight[static_cast<std::size_t>(rank)]);
  const auto cells = cells_of_rows(table, rows, sorted_weight);
  const CellBatch tensors({{&cells, &table}}, torch::kFloat64, torch::kCPU);
  const auto logits = model->predict(tensors);
  const auto losses = model->gradient(tensors);
  expect_golden(leaf_values(losses.loss_R), file, "loss");

  std::vector<double> by_row(static_cast<std::size_t>(table.num_sequences() * (length - 1)));
  for (std::size_t u = 0; u < rows.size(); ++u) {
    for (std::int64_t c = 0; c + 1 < length; ++c) {
      const auto cell = cells.cell_of[u * static_cast<std::size_t>(length - 1) + static_cast<std::size_t>(c)];
      by_row[static_cast<std::size_t>(rows[u] * (length - 1) + c)] = logits.data_ptr<double>()[cell];
    }
  }
  expect_golden(by_row, file, "logits");
  for (std::size_t i = 0; i < parameters.specs().size(); ++i) {
    expect_golden(leaf_values(parameters.leaf(i).grad().contiguous()), file, "grad." + parameters.specs()[i].name);
  }

  const auto& settings = golden.at("adam");
  Adam adam(parameters, {{settings.at("lr"), settings.at("betas")[0], settings.at("betas")[1], settings.at("eps"), settings.at("weight_decay")}});
  const auto& steps = file.at("adam.bits");
  const auto batch = steps.shape[1];
  std::vector<double> adam_losses;
  for (std::int64_t step = 0; step < steps.shape[0]; ++step) {
    const auto step_table = SequenceTable::from_array(view_of(steps.as<std::int64_t>().data() + step * batch * length, {batch, length}));
    const auto step_cells = cells_of_batch(step_table, step_table.order());
    const auto result = model->gradient(CellBatch({{&step_cells, &step_table}}, torch::kFloat64, torch::kCPU));
    adam_losses.push_back(result.loss_R.item<double>());
    adam.step(torch::ones({1}, torch::kUInt8));
  }
  expect_golden(adam_losses, file, "adam.loss");
  for (std::size_t i = 0; i < parameters.specs().size(); ++i) {
    const auto& name = parameters.specs()[i].name;
    auto measured = leaf_values(parameters.leaf(i));
    auto expected = file.get<double>("adam.weight." + name);
    if (name.ends_with("c_attn.bias")) {  // the key bias has an exact gradient of 0, of which Adam amplifies the rounding
      const auto C = measured.size() / 3;
      expect_golden(measured.subspan(2 * C), expected.subspan(2 * C), name + " (values)");
      measured = measured.first(C);
      expected = expected.first(C);
    }
    expect_golden(measured, expected, "adam.weight." + name);
  }
}

}  // namespace mnemo
