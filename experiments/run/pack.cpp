#include "experiments/run/pack.h"

#include "core/error.h"
#include "core/files.h"
#include "experiments/run/run.h"
#include "models/make_model.h"

#include <fmt/format.h>
#include <torch/torch.h>

#include <algorithm>

namespace mnemo {

namespace {

/// Members may differ in scalars, and in where and how results are written.
bool may_differ(std::string_view path) {
  constexpr std::string_view kScalars[] = {"seed",        "data.seed",       "data.zipf_exponent", "train.lr",     "train.eps", "train.weight_decay",
                                           "train.decay", "train.clip_norm", "train.schedule",     "train.warmup", "name",      "group",
                                           "run"};
  if (std::find(std::begin(kScalars), std::end(kScalars), path) != std::end(kScalars)) return true;
  constexpr std::string_view kModel = "model.";
  if (path.starts_with(kModel)) return is_own_of_replica(path.substr(kModel.size()));
  return path.starts_with("train.betas") || path.starts_with("output.");
}

constexpr const char* kQueue = "model_state.queue";  // in checkpoints

}  // namespace

std::string difference_of_members(const RunConfig& a, const RunConfig& b) { return first_difference(flatten(a), flatten(b), may_differ); }

std::string kind_of_pack(const RunConfig& config) {
  Hasher hasher;
  for (const auto& [path, value] : flatten(config)) hasher.update(path + "=" + (may_differ(path) ? "" : value) + "\n");
  return hasher.digest();
}

Pack::Pack(std::span<const RunConfig> members)
    : device_(choose_device(members[0].precision == "fp64" ? "cpu" : members[0].device,
                            static_cast<double>(members.size()) * milliseconds_of_step(members[0]) / static_cast<double>(members[0].threads),
                            members[0].precision == "tf32")),
      dtype_(members[0].precision == "fp64" ? torch::kFloat64 : torch::kFloat32) {
  const bool tf32 = members[0].precision == "tf32";
  if (tf32 && device_.device.is_cpu())
    throw Error(ExitCode::resources, "precision tf32 is of GPUs only, and this run is on the CPU: " + device_.reason);
  std::vector<ModelConfig> models;
  std::vector<AdamScalars> scalars;
  for (const auto& member : members) {
    if (const auto difference = difference_of_members(members[0], member); !difference.empty()) {
      throw Error(ExitCode::config, fmt::format("'{}' and '{}' cannot share a pack: {}", *members[0].run, *member.run, difference));
    }
    models.push_back(with_seeds(member).model);
    scalars.push_back(scalars_of(member.train));
    laws_.push_back(rank_law(member));
  }
  model_ = make_model(models, members[0].data.length, dtype_, device_.device);
  model_->forms.tf32 = tf32;
  for (std::int64_t row = 0; size() > 1 && row < size(); ++row) members_.push_back(model_->replica(row));
  adam_ = std::make_unique<Adam>(model_->parameters, scalars);
  std::vector<TrainingData> data;
  for (std::size_t row = 0; row < laws_.size(); ++row) {
    data.push_back({nullptr, DrawStream(laws_[row].sampler, data_seed(members[row]), members[row].train.batch_size)});
  }
  trainer_ = std::make_unique<Trainer>(*model_, *adam_, std::move(data));
}

NamedTensors Pack::state(std::int64_t row) {
  NamedTensors tensors;
  const auto& parameters = model(row).parameters;
  const auto num_parameters = parameters.specs().size();
  auto frozen = torch::zeros({static_cast<std::int64_t>(num_parameters)}, torch::kUInt8);
  for (std::size_t i = 0; i < num_parameters; ++i) {
    const auto& name = parameters.specs()[i].name;
    const auto begin = parameters.offset(i), end = begin + parameters.specs()[i].size();
    tensors.emplace_back("model." + name, parameters.leaf(i).detach().select(0, 0));
    tensors.emplace_back("adam.first_moment." + name, adam_->first_moment_RP()[row].slice(0, begin, end));
    tensors.emplace_back("adam.second_moment." + name, adam_->second_moment_RP()[row].slice(0, begin, end));
    frozen[static_cast<std::int64_t>(i)] = model_->parameters.frozen(row, i);
  }
  if (auto* memory = model(row).memory()) tensors.emplace_back(kQueue, memory->state(0));
  tensors.emplace_back("adam.steps", adam_->steps_RT()[row]);
  tensors.emplace_back("frozen", frozen);
  tensors.emplace_back("log.loss", loss_sum(row));
  tensors.emplace_back("log.accuracy", accuracy_sum(row));
  return tensors;
}

void Pack::restore(std::int64_t row, const Safetensors& checkpoint) {
  for (const auto& [name, tensor] : state(row)) {
    copy_from(checkpoint, name, tensor);
    if (name == kQueue) model(row).memory()->set_state(0, tensor);
    if (name != "frozen") continue;
    for (std::int64_t i = 0; i < tensor.size(0); ++i) set_frozen(row, static_cast<std::size_t>(i), tensor[i].item<std::uint8_t>() != 0);
  }
}

std::vector<MemberOutcome> train(Pack& pack, std::span<const std::unique_ptr<Run>> runs) {
  std::vector<MemberOutcome> outcomes(runs.size());
  std::vector<std::size_t> members;  // that have not ended
  for (std::size_t i = 0; i < runs.size(); ++i) {
    if (runs[i]) members.push_back(i);
  }
  // an end or an error ends only its own member
  const auto for_those_at = [&](std::int64_t step, const auto& goes_on) {
    std::erase_if(members, [&](std::size_t i) {
      if (runs[i]->step() != step) return false;
      std::exception_ptr error;
      try {
        if (goes_on(*runs[i])) return false;
      } catch (...) {
        error = std::current_exception();
      }
      try {
        outcomes[i].code = runs[i]->end(error);
      } catch (...) {
        outcomes[i].error = std::current_exception();
      }
      return true;
    });
  };
  const auto slowest = [&] { return *std::ranges::min_element(members, {}, [&](std::size_t i) { return runs[i]->step(); }); };
  while (!members.empty()) {
    const auto step = runs[slowest()]->step();
    for_those_at(step, [](Run& run) { return run.act(); });
    if (members.empty() || runs[slowest()]->step() != step) continue;
    std::vector<bool> takes_part(runs.size());
    for (const auto i : members) takes_part[i] = runs[i]->step() == step;
    for (std::size_t i = 0; i < runs.size(); ++i) pack.set_active(static_cast<std::int64_t>(i), takes_part[i]);
    pack.step(step);
    for_those_at(step, [](Run& run) {
      run.trained();
      return true;
    });
  }
  return outcomes;
}

}  // namespace mnemo
