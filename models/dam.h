#pragma once

#include "core/config.h"
#include "models/memory_queue.h"
#include "models/model.h"
#include "models/ops/dam_retrieval.h"

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

namespace mnemo {

/// Settings of the dense associative memory (MATHS 4).
struct DamConfig {
  static constexpr std::string_view kKind = "dam";

  std::int64_t heads = 30;
  std::optional<std::int64_t> capacity;
  double eta = 10, init_std = 0.1;
  std::optional<std::string> probabilities;
  std::string positions = "from_1", objective = "next_bit";
  std::optional<std::uint32_t> seed;

  template <class Self, class Visit>
  static void fields(Self& self, Visit&& visit) {
    visit("heads", self.heads, "heads H: features of a cue and of a stored sequence", in_range(1, 4096));
    visit("capacity", self.capacity, "slots M of the queue of drawn sequences; null = 3000", in_range(1, 1 << 30));
    visit("eta", self.eta, "inverse temperature of retrieval", positive(), at_most(1e6));
    visit("init_std", self.init_std, "standard deviation of the initial A_logits and B_logits", non_negative(), at_most(1e10));
    visit("probabilities", self.probabilities, "exact: a loss is at most 100; clamped: P in [1e-6, 1 - 1e-6]; null = exact", one_of({"exact", "clamped"}));
    visit("positions", self.positions, "the first predicted bit: from_1, as a transformer without begin token, or from_0",
          one_of({"from_1", "from_0"}));
    visit("objective", self.objective, "next_bit, or retrieval: which of the K sequences is it? (they are the memory, once each; no queue)",
          one_of({"next_bit", "retrieval"}));
    visit("seed", self.seed, "seed of the initial weights; null = the run's seed");
  }

  bool retrieves() const { return objective == "retrieval"; }
  std::int64_t slots() const { return capacity.value_or(3000); }
  bool clamped() const { return probabilities == "clamped"; }
  /// Writes the defaults of what is null into a configuration that uses them.
  void resolve();
  double nanoseconds_of_prediction(std::int64_t length, std::int64_t num_sequences) const;
  std::vector<std::pair<std::string, std::string>> problems(std::int64_t length) const;
};

ModelFacts facts_of(const DamConfig& config, std::int64_t length);

/// MATHS 4. logits() is the plain LibTorch composition over the slots of the queue. gradient(), predict() and score() run over the distinct
/// stored sequences with their counts: on the CPU by models/ops/dam_retrieval, elsewhere by the same composition, block by block.
class Dam : public Model {
 public:
  Dam(std::vector<DamConfig> replicas, ModelFacts facts, Parameters parameters);

  std::unique_ptr<Model> replica(std::int64_t r) const override;

  torch::Tensor logits(const Rows& rows) override;
  torch::Tensor predict(const Rows& rows) override;
  Losses gradient(const Rows& rows) override;
  PositionScores score(const Rows& rows) override;
  std::string form() const override;
  double max_loss() const override;
  Measures measures() const override;
  Memory* memory() override { return memory_ ? &*memory_ : nullptr; }

  /// gradient() where the op does not run.
  Losses gradient_by_blocks(const Rows& rows, std::int64_t max_scores);

 private:
  struct Stored {
    torch::Tensor chi_mL, log_count_m;  // +-1; 0 where a slot is one sequence
  };
  torch::Tensor A(std::int64_t replica) const;        // [L, H, L], rows of softmax over the entries before, row 0 zero
  torch::Tensor B(std::int64_t replica) const;        // [H, L]
  torch::Tensor features_of_cues(const Rows& rows, std::int64_t replica) const;  // phi_hat of every cell, [N, H]
  torch::Tensor predicted_bit(const Rows& rows, std::int64_t replica) const;     // of every cell, [N]
  Stored slots(std::int64_t replica) const;
  Stored distinct(const Rows& rows, std::int64_t replica) const;
  torch::Tensor scores(const torch::Tensor& phi_hat_NH, const torch::Tensor& phi_mH, const Stored& stored, std::int64_t replica) const;
  torch::Tensor next_bit_logits(const torch::Tensor& scores_Nm, const torch::Tensor& bit_N, const Stored& stored) const;
  static PositionScores identify(const torch::Tensor& scores_qm, const torch::Tensor& truth_q);
  std::vector<StoredSequence> stored_of(const Rows& rows, std::int64_t replica) const;

  template <class Real, class Body>
  void with_op(const Rows& rows, std::int64_t replica, const Body& body);
  bool fast() const;

  std::vector<DamConfig> configs_;    // of the replicas
  std::optional<QueueMemory> memory_;  // none for retrieval, whose memory is the table that the rows are of
  std::vector<std::variant<std::monostate, DamRetrieval<float>, DamRetrieval<double>>> ops_;  // made at first use
};

}  // namespace mnemo
