// Events that act on a copy of the model, and leave the run as it was.

#include "experiments/config/events.h"

#include "experiments/run/evaluate.h"
#include "experiments/run/run.h"
#include "experiments/run/weights.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <torch/torch.h>

#include <algorithm>
#include <numeric>

namespace mnemo {

using torch::Tensor;

namespace {

/// Keeps the weights of a model and puts them back at the end of the scope.
class KeptWeights {
 public:
  explicit KeptWeights(const Model& model) : weights_RP_(model.parameters.flat_RP()), kept_RP_(weights_RP_.clone()) {}
  ~KeptWeights() {
    torch::NoGradGuard no_grad;
    weights_RP_.copy_(kept_RP_);
  }
  KeptWeights(const KeptWeights&) = delete;
  KeptWeights& operator=(const KeptWeights&) = delete;

 private:
  Tensor weights_RP_, kept_RP_;
};

}  // namespace

// ---- swap_test

void SwapTestEvent::apply(Run& run) const {
  const auto file = run.weights_from(from);
  const KeptWeights kept(run.model());
  load_weights(run.model(), file, params);
  run.evaluate_copy(name, on);
}

// ---- transplant

Files TransplantEvent::outputs(std::int64_t step) const {
  return {fmt::format("transplant/{}{}.csv", name, schedule.every ? fmt::format("_{}", step) : "")};
}

void TransplantEvent::apply(Run& run) const {
  auto& model = run.model();
  const auto file = run.weights_from(from);
  const auto groups = parameter_groups(model.parameters.specs());
  std::vector<std::pair<const char*, const SequenceTable*>> sets;
  if (run.phases().size() > 1) sets.emplace_back("old", &run.phases().end()[-2].table);
  sets.emplace_back("new", &run.phases().back().table);
  if (run.novel()) sets.emplace_back("novel", &*run.novel());

  auto csv = fmt::format("step,{},set,accuracy,loss\n", fmt::join(groups, ","));
  for (std::size_t subset = 0; subset < std::size_t{1} << groups.size(); ++subset) {
    const KeptWeights kept(model);
    std::vector<std::string> taken;
    std::string row = std::to_string(run.step());
    for (std::size_t group = 0; group < groups.size(); ++group) {
      const bool from_snapshot = (subset >> group) & 1;
      row += from_snapshot ? ",1" : ",0";
      if (from_snapshot) taken.push_back(groups[group]);
    }
    load_weights(model, file, taken);
    for (const auto& [set, table] : sets) {
      const auto scores = score(model, *table, strided_ranks(table->num_sequences(), stride), [&] { run.poll(); });
      csv += fmt::format("{},{},{:.6f},{:.6f}\n", row, set, mean_of(scores.accuracy), mean_of(scores.loss));
    }
  }
  make_directories(run.file("transplant"));
  write_atomically(run.file(outputs(run.step())[0]), csv);
}

// ---- fork_probe

Files ForkProbeEvent::outputs(std::int64_t step) const {
  return {fmt::format("probes/{}.{}.accuracy.npy", name, step), fmt::format("probes/{}.{}.json", name, step)};
}

void ForkProbeEvent::apply(Run& run) const {
  constexpr std::size_t kWindow = 10;  // batches
  const auto& config = run.config();
  const auto copy = run.copy_of_model();
  for (const auto index : matching_parameters(copy->parameters.specs(), freeze)) copy->parameters.set_frozen(0, index, true);
  auto scalars = scalars_of(config.train);
  scalars.warmup = scalars.cosine_steps = 0;  // train.lr throughout: of two probes the later one must not learn more slowly because the run ends
  Adam adam(copy->parameters, {scalars});
  const auto table = SequenceTable::novel(seed, sequences, config.data.length, Stream::probe_bits, [&] { run.poll(); });
  const auto uniform = RankSampler::zipf(sequences, 0);
  Trainer trainer(*copy, adam, {{&table, DrawStream(uniform, seed, config.train.batch_size, Stream::probe_draws)}});

  // reading a result waits for the device: after every step on the CPU, less often elsewhere
  const std::int64_t chunk = copy->parameters.flat_RP().is_cpu() ? 1 : 64;
  std::vector<float> accuracy;  // of each batch, before the update that it makes
  bool reached = false, diverged = false;
  for (std::int64_t step = 0; !reached && !diverged && step < max_steps;) {
    run.poll();
    std::vector<Tensor> taken;
    for (const auto end = std::min(step + chunk, max_steps); step < end; ++step) taken.push_back(trainer.step(step).accuracy_R.clone());
    const auto of_chunk = torch::cat(taken).to(torch::kCPU, torch::kFloat32);
    const auto finite = trainer.finite_steps_R()[0].item<std::int64_t>();
    for (std::int64_t i = 0; i < of_chunk.size(0) && !reached && !diverged; ++i) {
      accuracy.push_back(of_chunk[i].item<float>());
      diverged = std::ssize(accuracy) > finite;
      reached = !diverged && accuracy.size() >= kWindow && mean_of(std::span(accuracy).last(kWindow)) > until;
    }
  }

  make_directories(run.file("probes"));
  const auto files = outputs(run.step());
  write_npy(run.file(files[0]), view_of(accuracy.data(), {std::ssize(accuracy)}));
  write_atomically(run.file(files[1]),
                   fmt::format("{{\"step\": {}, \"steps_needed\": {}, \"num_iters_required\": {}, \"until\": {}, \"max_steps\": {}, "
                               "\"sequences\": {}, \"seed\": {}{}}}\n",
                               run.step(), reached ? std::to_string(accuracy.size()) : "null", accuracy.size() - 1, until, max_steps, sequences, seed,
                               diverged ? ", \"diverged\": true" : ""));
  if (diverged) return run.log().warning("{}: the copy diverged after {} steps: loss or gradient is not finite", name, accuracy.size());
  run.log().info("{}: {} {} after {} steps", name, reached ? "passed" : "did not pass", until, accuracy.size());
}

// ---- features

Files FeaturesEvent::outputs(std::int64_t step) const { return {fmt::format("features/{}.{}", name, step)}; }

void FeaturesEvent::apply(Run& run) const {
  constexpr std::int64_t kBlock = 64;  // sequences
  torch::NoGradGuard no_grad;
  const auto& flat = run.model().parameters.flat_RP();
  const auto table = SequenceTable::novel(seed, sequences, run.config().data.length, Stream::probe_bits, [&] { run.poll(); });
  const auto predictions = table.length() - 1;
  std::vector<std::vector<Tensor>> blocks;  // of each layer, [block, positions, width]
  for (std::int64_t begin = 0; begin < sequences; begin += kBlock) {
    run.poll();
    std::vector<std::int32_t> ranks(static_cast<std::size_t>(std::min(kBlock, sequences - begin)));
    std::iota(ranks.begin(), ranks.end(), static_cast<std::int32_t>(begin));
    const std::vector<double> shares(ranks.size());
    const auto cells = cells_of_rows(table, std::move(ranks), shares, Sharing::none);  // every row, every position
    const auto layers = run.model().hidden_layers(CellBatch({{&cells, &table}}, flat.scalar_type(), flat.device()));
    blocks.resize(layers.size());
    for (std::size_t j = 0; j < layers.size(); ++j) {
      const auto strided = layers[j][0].view({cells.num_rows(), predictions, -1}).slice(1, 0, predictions, stride);
      blocks[j].push_back(strided.contiguous().to(torch::kCPU, torch::kFloat32));
    }
  }

  std::vector<std::int64_t> position;
  for (std::int64_t i = 0; i < predictions; i += stride) position.push_back(i);
  const auto folder = run.file(outputs(run.step())[0]);
  make_directories(folder);
  write_npy(folder / "sequences.npy", view_of(table.unpack_all().data(), {sequences, table.length()}));
  write_npy(folder / "position.npy", view_of(position.data(), {std::ssize(position)}));
  for (std::size_t j = 0; j < blocks.size(); ++j) {
    const auto layer = torch::cat(blocks[j]);
    write_npy(folder / fmt::format("layer_{}.npy", j), view_of(layer.data_ptr<float>(), layer.sizes().vec()));
  }
}

}  // namespace mnemo
