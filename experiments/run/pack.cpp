#include "experiments/run/pack.h"

#include "core/error.h"
#include "experiments/run/run.h"

#include <fmt/format.h>
#include <torch/torch.h>

#include <algorithm>

namespace mnemo {

namespace {

/// Scalars, and what says where and how results are written: members may differ in these.
bool may_differ(std::string_view path) {
  constexpr std::string_view kScalars[] = {"seed", "data.seed", "data.zipf_exponent", "train.lr", "train.eps", "train.weight_decay", "name", "group", "run"};
  if (std::find(std::begin(kScalars), std::end(kScalars), path) != std::end(kScalars)) return true;
  constexpr std::string_view kModel = "model.";
  if (path.starts_with(kModel)) {
    return std::find(std::begin(kOwnOfReplica), std::end(kOwnOfReplica), path.substr(kModel.size())) != std::end(kOwnOfReplica);
  }
  return path.starts_with("train.betas") || path.starts_with("output.");
}

}  // namespace

std::string difference_of_members(const RunConfig& a, const RunConfig& b) {
  const auto first = flatten(a), second = flatten(b);
  for (std::size_t i = 0; i < std::max(first.size(), second.size()); ++i) {
    const auto at = [&](const auto& list) { return i < list.size() ? list[i] : std::pair<std::string, std::string>("settings", "none"); };
    const auto [path, value] = at(first);
    const auto [other_path, other_value] = at(second);
    if (path == other_path && (value == other_value || may_differ(path))) continue;
    return fmt::format("{}: {}, {}", path, value, other_value);
  }
  return {};
}

Pack::Pack(std::span<const RunConfig> members)
    : device_(choose_device(members[0].precision == "fp64" ? "cpu" : members[0].device,
                            static_cast<double>(members.size()) * milliseconds_of_step(members[0]) / static_cast<double>(members[0].threads))),
      dtype_(members[0].precision == "fp64" ? torch::kFloat64 : torch::kFloat32) {
  at::set_num_threads(static_cast<int>(members[0].threads));
  std::vector<ModelConfig> models;
  std::vector<AdamScalars> scalars;
  for (const auto& member : members) {
    if (const auto difference = difference_of_members(members[0], member); !difference.empty()) {
      throw Error(ExitCode::config, fmt::format("'{}' and '{}' cannot share a pack: {}", *members[0].run, *member.run, difference));
    }
    models.push_back(with_seeds(member).model);
    scalars.push_back(scalars_of(member.train));
    samplers_.push_back(sampler_of(member));
  }
  model_ = make_model(models, members[0].data.length, dtype_, device_.device);
  for (std::int64_t row = 0; size() > 1 && row < size(); ++row) members_.push_back(model_->replica(row));
  adam_ = std::make_unique<Adam>(model_->parameters, scalars);
  std::vector<TrainingData> data;
  for (std::size_t row = 0; row < samplers_.size(); ++row) {
    data.push_back({nullptr, DrawStream(samplers_[row], data_seed(members[row]), members[row].train.batch_size)});
  }
  trainer_ = std::make_unique<Trainer>(*model_, *adam_, std::move(data));
  loss_sum_R_ = torch::zeros({size()}, torch::TensorOptions().dtype(torch::kFloat64).device(device_.device));
  accuracy_sum_R_ = torch::zeros_like(loss_sum_R_);
}

void Pack::step(std::int64_t step) {
  const auto losses = trainer_->step(step);
  loss_sum_R_.add_(losses.loss_R);
  accuracy_sum_R_.add_(losses.accuracy_R);
}

std::vector<MemberOutcome> train(Pack& pack, std::span<const std::unique_ptr<Run>> runs) {
  std::vector<MemberOutcome> outcomes(runs.size());
  std::vector<std::size_t> active(runs.size());
  for (std::size_t i = 0; i < runs.size(); ++i) active[i] = i;
  // whatever ends one member, its own end or an error, ends it alone
  const auto for_active = [&](const auto& goes_on) {
    std::erase_if(active, [&](std::size_t i) {
      std::exception_ptr error;
      try {
        if (goes_on(*runs[i])) return false;
      } catch (...) {
        error = std::current_exception();
      }
      pack.leave(static_cast<std::int64_t>(i));
      try {
        outcomes[i].code = runs[i]->end(error);
      } catch (...) {
        outcomes[i].error = std::current_exception();
      }
      return true;
    });
  };
  while (true) {
    for_active([](Run& run) { return run.act(); });
    if (active.empty()) return outcomes;
    pack.step(runs[active[0]]->step());
    for_active([](Run& run) {
      run.trained();
      return true;
    });
  }
}

}  // namespace mnemo
