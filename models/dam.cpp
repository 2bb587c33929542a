#include "models/dam.h"

#include "core/gpu.h"
#include "core/loss.h"
#include "core/packed_bits.h"
#include "models/memory_queue.h"
#include "models/model.h"
#include "models/ops/dam_cuda.h"
#include "models/ops/dam_retrieval.h"

#include <fmt/format.h>
#include <torch/torch.h>

#include <algorithm>
#include <cmath>
#include <variant>

// Shapes: R replicas, U rows, L bits, P predictions of a row, N cells, H heads, m stored sequences.

namespace mnemo {

using torch::Tensor;

/// Features of the cue, then a score and its slope for each distinct stored sequence (as measured by bench dam S, T).
double DamConfig::nanoseconds_of_prediction(std::int64_t length, std::int64_t num_sequences) const {
  const auto L = static_cast<double>(length), stored = static_cast<double>(retrieves() ? num_sequences : std::min(slots(), num_sequences));
  return (static_cast<double>(heads) * L + stored * (L + 30)) / 30;
}

void DamConfig::resolve() {
  if (retrieves()) return;
  capacity = slots();
  if (!probabilities) probabilities = "exact";
}

std::vector<std::pair<std::string, std::string>> DamConfig::problems(std::int64_t length) const {
  std::vector<std::pair<std::string, std::string>> found;
  if (retrieves() && capacity)
    found.emplace_back("capacity", "has no effect under objective: retrieval, which keeps no queue: the K sequences are the memory");
  if (retrieves() && probabilities) found.emplace_back("probabilities", "has no effect under objective: retrieval, which predicts no bit");
  const double parameters = static_cast<double>(length) * static_cast<double>(length) * static_cast<double>(heads);
  if (const auto what = too_many_parameters(parameters); !what.empty()) found.emplace_back("heads", what);
  return found;
}

ModelFacts facts_of(const DamConfig& config, std::int64_t length) {
  const auto normal = ParameterSpec::Init::normal;
  ModelFacts facts;
  facts.text = fmt::format("{} heads, eta {}, {}", config.heads, config.eta,
                           config.retrieves() ? std::string("retrieval of the K sequences") : fmt::format("a queue of {}", config.slots()));
  facts.parameters = {{"A_logits", "A", {length, config.heads, length}, normal, config.init_std},
                      {"B_logits", "B", {config.heads, length}, normal, config.init_std}};
  facts.first_predicted_bit = config.positions == "from_0" ? 0 : 1;
  facts.task = config.retrieves() ? Task::sequences : Task::bits;
  facts.has_memory = !config.retrieves();
  return facts;
}

namespace {

/// MATHS 4. logits() is the plain LibTorch composition over the slots of the queue. gradient(), predict() and score() run over the distinct
/// stored sequences with their counts: on the CPU by models/ops/dam_retrieval; on a GPU gradient() by models/ops/dam_cuda, for batches that were made
/// there; else by the same composition, block by block.
class Dam final : public Model {
 public:
  Dam(std::vector<DamConfig> replicas, ModelFacts facts, Parameters parameters);

  std::unique_ptr<Model> replica(std::int64_t r) const override;

  torch::Tensor logits(const CellBatch& batch) override;
  torch::Tensor predict(const CellBatch& batch) override;
  Losses gradient(const CellBatch& batch) override;
  bool can_be_recorded() const override {
    const auto& flat = parameters.flat_RP();
    return forms.kernels && !flat.is_cpu() && flat.scalar_type() == torch::kFloat32 && parameters.specs()[1].shape[1] <= kDamCudaMaxLength;
  }
  PositionScores score(const CellBatch& batch) override;
  std::string form() const override;
  double max_loss() const override;
  Measures measures() const override;
  Memory* memory() override { return memory_ ? &*memory_ : nullptr; }

 private:
  struct Stored {
    torch::Tensor chi_mL, log_count_m;  // +-1; ln of the slots that hold each
  };
  torch::Tensor A(std::int64_t replica) const;  // [L, H, L], rows of softmax over the entries before, row 0 zero
  torch::Tensor B(std::int64_t replica) const;  // [H, L]
  torch::Tensor features_of_cues(const CellBatch& batch, std::int64_t replica) const;  // phi_hat of every cell, [N, H]
  torch::Tensor predicted_bit(const CellBatch& batch, std::int64_t replica) const;     // of every cell, [N]
  Stored slots(std::int64_t replica) const;
  Stored distinct(const CellBatch& batch, std::int64_t replica) const;
  torch::Tensor scores(const torch::Tensor& phi_hat_NH, const torch::Tensor& phi_mH, const Stored& stored, std::int64_t replica) const;
  torch::Tensor next_bit_logits(const torch::Tensor& scores_Nm, const torch::Tensor& bit_N, const Stored& stored) const;
  static PositionScores identify(const torch::Tensor& scores_qm, const torch::Tensor& truth_q);
  std::vector<StoredSequence> stored_of(const CellBatch& batch, std::int64_t replica) const;

  /// gradient() without an op.
  Losses gradient_by_blocks(const CellBatch& batch);
  Losses gradient_on_gpu(const DeviceBatch& batch);
  /// Queues the look-up of what is stored.
  const DeviceMemory& stored_on_gpu(const DeviceBatch& batch);

  template <class Real, class Body>
  void with_op(const CellBatch& batch, std::int64_t replica, const Body& body);

  std::vector<DamConfig> configs_;     // of the replicas
  std::optional<QueueMemory> memory_;  // none for retrieval, whose memory is the table that the rows are of
  // made at first use
  std::vector<std::variant<std::monostate, DamRetrieval<float>, DamRetrieval<double>>> ops_;
  std::optional<StoredOnGpu> table_on_gpu_;  // of retrieval
  Tensor eta_R_, work_;                      // on a GPU
  Losses on_gpu_;
};

}  // namespace

std::unique_ptr<Model> construct(std::vector<DamConfig> replicas, ModelFacts facts, Parameters parameters) {
  return std::make_unique<Dam>(std::move(replicas), std::move(facts), std::move(parameters));
}

Dam::Dam(std::vector<DamConfig> replicas, ModelFacts f, Parameters p)
    : Model(std::move(f), std::move(p)), configs_(std::move(replicas)), ops_(configs_.size()) {
  if (configs_[0].retrieves()) return;
  memory_.emplace(parameters.num_replicas(), configs_[0].slots(), parameters.specs()[1].shape[1], parameters.flat_RP().device());
}

std::unique_ptr<Model> Dam::replica(std::int64_t r) const {
  auto one = std::make_unique<Dam>(std::vector{configs_[static_cast<std::size_t>(r)]}, facts, parameters.replica(r));
  one->forms = forms;
  if (memory_) one->memory_ = memory_->replica(r);
  return one;
}

double Dam::max_loss() const { return configs_[0].clamped() ? Model::max_loss() : kDamMaxLoss; }

// ---- the plain form

Tensor Dam::A(std::int64_t replica) const {
  const auto logits = parameters["A_logits"].select(0, replica);  // [L, H, L]
  const auto L = logits.size(0);
  const auto unused = torch::ones({L, L}, logits.options().dtype(torch::kBool).requires_grad(false)).triu().unsqueeze(1);  // i >= n
  const auto masked = logits.masked_fill(unused, -std::numeric_limits<double>::infinity());
  return torch::cat({torch::zeros_like(logits.slice(0, 0, 1)), masked.slice(0, 1).softmax(-1)});
}

Tensor Dam::B(std::int64_t replica) const { return parameters["B_logits"].select(0, replica).softmax(-1); }

Tensor Dam::predicted_bit(const CellBatch& batch, std::int64_t replica) const {
  return batch.tensors().cell_RN[replica].remainder(batch.num_positions()) + batch.first_predicted_bit();
}

Tensor Dam::features_of_cues(const CellBatch& batch, std::int64_t replica) const {
  const auto& [bits_RUL, cell_RN, weight_RN2] = batch.tensors();
  const auto A_LHL = A(replica);
  const auto L = A_LHL.size(0), H = A_LHL.size(1);
  const auto zeta_UL = 2 * bits_RUL[replica].to(A_LHL.dtype()) - 1;
  const auto phi_hat = zeta_UL.matmul(A_LHL.view({L * H, L}).t()).view({-1, H});  // [U L, H]
  return phi_hat.index_select(0, cell_RN[replica].div(batch.num_positions(), "floor") * L + predicted_bit(batch, replica));
}

namespace {

/// +-1 of uint8 bits, in the type and on the device of the parameters.
Tensor signs(const Tensor& bits, const Parameters& parameters) { return 2 * bits.to(parameters.flat_RP().options()) - 1; }

}  // namespace

Dam::Stored Dam::slots(std::int64_t replica) const {
  const auto chi_mL = signs(memory_->bits(replica), parameters);
  return {chi_mL, torch::zeros({chi_mL.size(0)}, chi_mL.options())};
}

/// What gradient() and predict() run over: the distinct sequences of the queue, or, for retrieval, the table that the rows are of.
std::vector<StoredSequence> Dam::stored_of(const CellBatch& batch, std::int64_t replica) const {
  const auto r = static_cast<std::size_t>(replica);
  if (!configs_[r].retrieves()) {
    const auto distinct = memory_->queue(replica).distinct();
    return {distinct.begin(), distinct.end()};
  }
  std::vector<StoredSequence> stored;
  const auto& table = *batch.replicas()[r].table;
  for (std::int64_t rank = 0; rank < table.num_sequences(); ++rank) stored.push_back({table.row(rank).data(), 1});
  return stored;
}

Dam::Stored Dam::distinct(const CellBatch& batch, std::int64_t replica) const {
  const auto stored = stored_of(batch, replica);
  const auto W = (batch.length() + 63) / 64;
  auto words_mW = torch::empty({std::ssize(stored), W}, torch::kInt64);
  auto* row = words_mW.data_ptr<std::int64_t>();
  std::vector<double> log_count;
  for (const auto& sequence : stored) {
    row = std::copy_n(sequence.bits, W, row);
    log_count.push_back(std::log(static_cast<double>(sequence.count)));
  }
  const auto chi_mL = signs(unpack_bits(words_mW.to(parameters.flat_RP().device()), batch.length()), parameters);
  return {chi_mL, torch::tensor(torch::ArrayRef<double>(log_count), torch::kFloat64).to(chi_mL.options())};
}

Tensor Dam::scores(const Tensor& phi_hat_NH, const Tensor& phi_mH, const Stored& stored, std::int64_t replica) const {
  return configs_[static_cast<std::size_t>(replica)].eta * phi_hat_NH.matmul(phi_mH.t()) + stored.log_count_m;
}

/// LSE over the stored sequences with next bit 1 minus that over those with 0; infinite if there are none of one kind.
Tensor Dam::next_bit_logits(const Tensor& scores_Nm, const Tensor& bit_N, const Stored& stored) const {
  if (scores_Nm.size(1) == 0) return torch::zeros({scores_Nm.size(0)}, scores_Nm.options().requires_grad(false));
  constexpr double kNothing = -1e30;  // finite: the slope of an infinite log-sum-exp is NaN
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  const auto is_one = stored.chi_mL.index_select(1, bit_N).t() > 0;
  const auto lse = [&](const Tensor& excluded) { return scores_Nm.masked_fill(excluded, kNothing).logsumexp(1); };
  const auto logits = (lse(~is_one) - lse(is_one)).masked_fill(is_one.all(1), kInfinity).masked_fill(~is_one.any(1), -kInfinity);
  return configs_[0].clamped() ? logits.clamp(-kDamLogitLimit, kDamLogitLimit) : logits;
}

Tensor Dam::logits(const CellBatch& batch) {
  std::vector<Tensor> logits;
  for (std::int64_t r = 0; r < batch.num_replicas(); ++r) {
    const auto stored = configs_[0].retrieves() ? distinct(batch, r) : slots(r);
    const auto phi_mH = stored.chi_mL.matmul(B(r).t());
    logits.push_back(next_bit_logits(scores(features_of_cues(batch, r), phi_mH, stored, r), predicted_bit(batch, r), stored));
  }
  return torch::stack(logits);
}

/// Loss and accuracy of naming the stored sequence truth_q.
PositionScores Dam::identify(const Tensor& scores_qm, const Tensor& truth_q) {
  const auto true_score = scores_qm.gather(1, truth_q.unsqueeze(1)).squeeze(1), best = scores_qm.amax(1);
  const auto ties = (scores_qm == best.unsqueeze(1)).sum(1).to(scores_qm.dtype());
  return {scores_qm.logsumexp(1) - true_score, torch::where(true_score == best, 1 / ties, torch::zeros_like(ties))};
}

// ---- the plain form over distinct stored sequences, in blocks of predictions, so that no more than `max_scores` scores are held

namespace {

/// Calls body(begin, end) for blocks of predictions with `stored` scores each.
template <class Body>
void for_blocks(std::int64_t predictions, std::int64_t stored, std::int64_t max_scores, const Body& body) {
  const auto block = std::max<std::int64_t>(1, max_scores / std::max<std::int64_t>(stored, 1));
  for (std::int64_t begin = 0; begin < predictions; begin += block) body(begin, std::min(begin + block, predictions));
}

/// Retrieval predicts for every row at every position: the cell, the true sequence and the loss weight of each, [U P].
struct Identifications {
  Tensor cell, truth, weight;

  Identifications(const Cells& cells, const Tensor& like) {
    std::vector<std::int64_t> truths;
    std::vector<double> loss_weights;
    const auto P = static_cast<std::size_t>(cells.num_positions());
    for (std::size_t i = 0; i < cells.cell_of.size(); ++i) {
      truths.push_back(cells.ranks[i / P]);
      loss_weights.push_back(cells.row_weight[i / P] / static_cast<double>(P));
    }
    const auto on_device = like.options().dtype(torch::kInt64).requires_grad(false);
    cell = torch::tensor(torch::ArrayRef<std::int32_t>(cells.cell_of), torch::kInt64).to(on_device);
    truth = torch::tensor(torch::ArrayRef<std::int64_t>(truths), torch::kInt64).to(on_device);
    weight = torch::tensor(torch::ArrayRef<double>(loss_weights), torch::kFloat64).to(like.options().requires_grad(false));
  }
};

}  // namespace

Losses Dam::gradient_by_blocks(const CellBatch& batch) {
  parameters.zero_gradient();
  std::vector<Tensor> losses, accuracies;
  for (std::int64_t r = 0; r < batch.num_replicas(); ++r) {
    const auto stored = distinct(batch, r);
    const auto cues = features_of_cues(batch, r), keys = stored.chi_mL.matmul(B(r).t());
    const auto phi_hat_NH = cues.detach().requires_grad_(), phi_mH = keys.detach().requires_grad_();
    auto loss = torch::zeros({}, phi_mH.options().dtype(torch::kFloat64).requires_grad(false)), accuracy = torch::zeros_like(loss);
    if (configs_[0].retrieves()) {
      const Identifications all(*batch.replicas()[static_cast<std::size_t>(r)].cells, phi_mH);
      for_blocks(all.cell.size(0), phi_mH.size(0), forms.max_scores, [&](std::int64_t begin, std::int64_t end) {
        const auto weight = all.weight.slice(0, begin, end);
        const auto cue_q = phi_hat_NH.index_select(0, all.cell.slice(0, begin, end));
        const auto named = identify(scores(cue_q, phi_mH, stored, r), all.truth.slice(0, begin, end));
        const auto sum = (weight * named.loss_RUP).sum(torch::kFloat64);
        sum.backward();
        loss += sum.detach();
        accuracy += (weight * named.accuracy_RUP).sum(torch::kFloat64).detach();
      });
    } else {
      const auto bit_N = predicted_bit(batch, r), weight_N2 = batch.tensors().weight_RN2[r];
      for_blocks(bit_N.size(0), phi_mH.size(0), forms.max_scores, [&](std::int64_t begin, std::int64_t end) {
        const auto logits = next_bit_logits(scores(phi_hat_NH.slice(0, begin, end), phi_mH, stored, r), bit_N.slice(0, begin, end), stored);
        const auto block = weighted_loss(logits.unsqueeze(0), weight_N2.slice(0, begin, end).unsqueeze(0), max_loss());
        if (logits.requires_grad()) logits.backward(block.dlogits_RN[0]);
        loss += block.loss_R[0];
        accuracy += block.accuracy_R[0];
      });
    }
    if (cues.requires_grad() && phi_hat_NH.grad().defined()) cues.backward(phi_hat_NH.grad());
    if (keys.requires_grad() && phi_mH.grad().defined()) keys.backward(phi_mH.grad());
    losses.push_back(loss);
    accuracies.push_back(accuracy);
  }
  parameters.zero_frozen_gradients();
  return {torch::stack(losses), torch::stack(accuracies)};
}

// ---- gradient and evaluation: the op on the CPU, else blocks

std::string Dam::form() const {
  return kernels_on_cpu() || can_be_recorded() ? "one pass over distinct stored sequences"
                                               : "blocks of the plain composition over distinct stored sequences";
}

/// Calls body(op, weights, stored) unless the memory of the replica is empty.
template <class Real, class Body>
void Dam::with_op(const CellBatch& batch, std::int64_t replica, const Body& body) {
  const auto stored = stored_of(batch, replica);
  if (stored.empty()) return;
  const auto r = static_cast<std::size_t>(replica);
  auto& op = ops_[r];
  if (!std::holds_alternative<DamRetrieval<Real>>(op)) {
    const auto& config = configs_[r];
    const DamShape shape{config.heads, batch.length(), config.eta, config.clamped(), config.retrieves()};
    op.template emplace<DamRetrieval<Real>>(shape, at::get_num_threads());
  }
  const auto& flat = parameters.flat_RP();
  const Real* row = flat.data_ptr<Real>() + replica * flat.size(1);
  body(std::get<DamRetrieval<Real>>(op), DamTensors<const Real>{row + parameters.offset(0), row + parameters.offset(1)}, stored);
}

namespace {

/// Calls body.operator()<Real>() with the type of the parameters.
template <class Body>
void with_type(const Parameters& parameters, const Body& body) {
  torch::NoGradGuard no_grad;
  parameters.flat_RP().scalar_type() == torch::kFloat64 ? body.template operator()<double>() : body.template operator()<float>();
}

}  // namespace

const DeviceMemory& Dam::stored_on_gpu(const DeviceBatch& batch) {
  if (memory_) return memory_->on_gpu().distinct();
  const auto& shape = batch.shape();
  const auto device = parameters.flat_RP().device();
  if (!table_on_gpu_) table_on_gpu_.emplace(shape.replicas, batch.num_sequences(), shape, device);
  device_table_stored_cuda(batch.tables_R(), shape.replicas, static_cast<int>(batch.num_sequences()), shape.words(), table_on_gpu_->view(),
                           gpu_stream(device.index()));
  return table_on_gpu_->view();
}

Losses Dam::gradient_on_gpu(const DeviceBatch& batch) {
  torch::NoGradGuard no_grad;
  const auto& flat = parameters.flat_RP();
  const c10::DeviceGuard guard(flat.device());  // a launch goes to the current device
  const auto R = flat.size(0);
  DamCudaStep step{};
  step.memory = stored_on_gpu(batch);
  step.shape.batch = batch.shape();
  step.shape.heads = static_cast<int>(configs_[0].heads);
  step.shape.distinct = step.memory.capacity;
  step.shape.clamped = configs_[0].clamped();
  step.shape.retrieval = configs_[0].retrieves();
  if (const auto bytes = static_cast<std::int64_t>(dam_cuda_work(step.shape)); !work_.defined() || work_.numel() != bytes) {
    const auto options = flat.options().requires_grad(false);
    std::vector<float> eta;
    for (const auto& config : configs_) eta.push_back(static_cast<float>(config.eta));
    eta_R_ = torch::tensor(torch::ArrayRef<float>(eta), torch::kFloat32).to(flat.device());
    work_ = torch::empty({bytes}, options.dtype(torch::kUInt8));
    on_gpu_ = {torch::empty({R}, options.dtype(torch::kFloat64)), torch::empty({R}, options.dtype(torch::kFloat64)),
               torch::empty({R}, options.dtype(torch::kUInt8))};
  }
  float* const gradient = parameters.gradient_RP().data_ptr<float>();
  const float* const weights = flat.const_data_ptr<float>();
  step.cells = batch.cells();
  step.eta_R = eta_R_.const_data_ptr<float>();
  step.A_logits = weights + parameters.offset(0), step.B_logits = weights + parameters.offset(1);
  step.dA_logits = gradient + parameters.offset(0), step.dB_logits = gradient + parameters.offset(1);
  step.stride = static_cast<std::size_t>(flat.size(1));
  step.loss_R = on_gpu_.loss_R.data_ptr<double>();
  step.accuracy_R = on_gpu_.accuracy_R.data_ptr<double>();
  step.learns_R = on_gpu_.learns_R.data_ptr<std::uint8_t>();
  step.work = work_.data_ptr();
  dam_gradient_cuda(step, gpu_stream(flat.device().index()));
  return on_gpu_;
}

Losses Dam::gradient(const CellBatch& batch) {
  if (batch.on_gpu() != nullptr) return gradient_on_gpu(*batch.on_gpu());
  if (!kernels_on_cpu()) return gradient_by_blocks(batch);
  parameters.zero_gradient();
  const auto& flat = parameters.flat_RP();
  const auto R = flat.size(0);
  Losses losses{torch::full({R}, std::log(2.0), torch::kFloat64), torch::full({R}, 0.5, torch::kFloat64)};  // of an empty memory
  with_type(parameters, [&]<class Real>() {
    for (std::int64_t r = 0; r < R; ++r) {
      const auto& [cells, table] = batch.replicas()[static_cast<std::size_t>(r)];
      with_op<Real>(batch, r, [&](auto& op, const auto& weights, const auto& stored) {
        Real* row = parameters.gradient_RP().template data_ptr<Real>() + r * flat.size(1);
        const auto result = op.gradient(weights, {row + parameters.offset(0), row + parameters.offset(1)}, stored, *cells, *table);
        losses.loss_R.data_ptr<double>()[r] = result.loss;
        losses.accuracy_R.data_ptr<double>()[r] = result.accuracy;
      });
    }
  });
  parameters.zero_frozen_gradients();
  return losses;
}

Tensor Dam::predict(const CellBatch& batch) {
  torch::NoGradGuard no_grad;
  auto logits_RN = torch::zeros({batch.num_replicas(), batch.num_cells()}, parameters.flat_RP().options());
  if (!kernels_on_cpu()) {
    for (std::int64_t r = 0; r < batch.num_replicas(); ++r) {
      const auto stored = distinct(batch, r);
      const auto phi_hat_NH = features_of_cues(batch, r), phi_mH = stored.chi_mL.matmul(B(r).t()), bit_N = predicted_bit(batch, r);
      for_blocks(bit_N.size(0), phi_mH.size(0), forms.max_scores, [&](std::int64_t begin, std::int64_t end) {
        logits_RN[r].slice(0, begin, end) =
            next_bit_logits(scores(phi_hat_NH.slice(0, begin, end), phi_mH, stored, r), bit_N.slice(0, begin, end), stored);
      });
    }
    return logits_RN;
  }
  with_type(parameters, [&]<class Real>() {
    for (std::int64_t r = 0; r < batch.num_replicas(); ++r) {
      const auto& [cells, table] = batch.replicas()[static_cast<std::size_t>(r)];
      with_op<Real>(batch, r, [&](auto& op, const auto& weights, const auto& stored) {
        op.logits(weights, stored, *cells, *table, logits_RN.template data_ptr<Real>() + r * batch.num_cells());
      });
    }
  });
  return configs_[0].clamped() ? logits_RN.clamp_(-kDamLogitLimit, kDamLogitLimit) : logits_RN;
}

PositionScores Dam::score(const CellBatch& batch) {
  if (!configs_[0].retrieves()) return Model::score(batch);
  torch::NoGradGuard no_grad;
  auto loss_RUP = torch::zeros({batch.num_replicas(), batch.num_rows(), batch.num_positions()}, parameters.flat_RP().options());
  auto accuracy_RUP = torch::zeros_like(loss_RUP);
  for (std::int64_t r = 0; r < batch.num_replicas(); ++r) {
    const auto& [cells, table] = batch.replicas()[static_cast<std::size_t>(r)];
    const auto loss_q = loss_RUP[r].view(-1), accuracy_q = accuracy_RUP[r].view(-1);
    if (kernels_on_cpu()) {
      with_type(parameters, [&]<class Real>() {
        with_op<Real>(batch, r, [&](auto& op, const auto& weights, const auto& stored) {
          op.identify(weights, stored, *cells, *table, loss_q.template data_ptr<Real>(), accuracy_q.template data_ptr<Real>());
        });
      });
      continue;
    }
    const auto stored = distinct(batch, r);
    const auto phi_hat_NH = features_of_cues(batch, r), phi_mH = stored.chi_mL.matmul(B(r).t());
    const Identifications all(*cells, phi_mH);
    for_blocks(all.cell.size(0), phi_mH.size(0), forms.max_scores, [&](std::int64_t begin, std::int64_t end) {
      const auto cue_q = phi_hat_NH.index_select(0, all.cell.slice(0, begin, end));
      const auto named = identify(scores(cue_q, phi_mH, stored, r), all.truth.slice(0, begin, end));
      loss_q.slice(0, begin, end).copy_(named.loss_RUP);
      accuracy_q.slice(0, begin, end).copy_(named.accuracy_RUP);
    });
  }
  return {loss_RUP, accuracy_RUP};
}

// ---- measures

namespace {

/// Mean Pearson correlation (N) between the heads of (N, H, I) over the entries that `used` (N, 1, I) marks. Pairs of which one is constant do not
/// count; NaN if none are left.
Tensor mean_correlation(const Tensor& rows_NHI, const Tensor& used_N1I) {
  const auto centred = (rows_NHI - (rows_NHI * used_N1I).sum(-1, true) / used_N1I.sum(-1, true)) * used_N1I;
  const auto length = centred.norm(2, -1, true), varies = length > 1e-12;
  const auto sum = torch::where(varies, centred / length, 0.0).sum(1);  // of unit vectors: its square counts every pair, and each with itself
  const auto count = varies.sum(1).squeeze(-1), pairs = count * (count - 1);
  const auto mean = ((sum.square().sum(-1) - count) / pairs).clamp(-1, 1);
  return mean.masked_fill(pairs == 0, std::numeric_limits<double>::quiet_NaN());
}

double mean_of_numbers(const Tensor& values) { return values.nanmean().item<double>(); }

std::vector<float> as_floats(const Tensor& values) {
  const auto narrow = values.to(torch::kFloat32).contiguous();
  return {narrow.data_ptr<float>(), narrow.data_ptr<float>() + narrow.numel()};
}

}  // namespace

/// Of replica 0. A vector holds a number for each n = 0..L-1 (B_logits_mean: for each bit), NaN where it is not defined. Raw measures are of the
/// logits of all L entries, used or not, as in notebook records.
Measures Dam::measures() const {
  torch::NoGradGuard no_grad;
  const auto on_host = [](const Tensor& tensor) { return tensor.to(torch::kCPU, torch::kFloat64); };
  const auto A_LHL = on_host(A(0)), B_HL = on_host(B(0)), A_logits = on_host(parameters["A_logits"].select(0, 0)),
             B_logits = on_host(parameters["B_logits"].select(0, 0));
  const auto L = A_LHL.size(0), H = A_LHL.size(1);
  const auto all = torch::ones({L, 1, L}, torch::kFloat64), used = all.squeeze(1).tril(-1).unsqueeze(1);  // i < n
  const auto per_n = used.sum(-1).squeeze(1);
  const auto sharpness = A_LHL.amax(2).mean(1).masked_fill(per_n == 0, std::numeric_limits<double>::quiet_NaN());
  const auto correlation = mean_correlation(A_LHL, used);
  Measures measures{{{"A_sharpness", mean_of_numbers(sharpness)},
                     {"B_sharpness", B_HL.amax(1).mean().item<double>()},
                     {"A_correlation", mean_of_numbers(correlation)},
                     {"B_correlation", mean_correlation(B_HL.unsqueeze(0), torch::ones({1, 1, L}, torch::kFloat64)).item<double>()}},
                    {{"A_sharpness", as_floats(sharpness)},
                     {"A_logits_mean", as_floats((A_logits * used).sum({1, 2}) / (static_cast<double>(H) * per_n))},
                     {"A_correlation_offdiag_mean", as_floats(correlation)},
                     {"B_logits_mean", as_floats(B_logits.mean(0))},
                     {"A_raw_logits_mean", as_floats(A_logits.mean({1, 2}))},
                     {"A_raw_correlation_offdiag_mean", as_floats(mean_correlation(A_logits, all))}}};
  if (memory_) measures.scalars.emplace_back("distinct_stored", static_cast<double>(memory_->queue(0).distinct().size()));
  return measures;
}

}  // namespace mnemo
