// The kernels of the dense associative memory against its form for the CPU, which the plain form specifies.

#include "models/ops/dam_cuda.h"

#include "core/batches.h"
#include "models/ops/dam_retrieval.h"
#include "simt_test.h"

#include <cmath>
#include <functional>
#include <map>
#include <memory>
#include <optional>

namespace mnemo {
namespace {

using simt::Device;

std::size_t product(int a, int b = 1, int c = 1, int d = 1) {
  return static_cast<std::size_t>(a) * static_cast<std::size_t>(b) * static_cast<std::size_t>(c) * static_cast<std::size_t>(d);
}

/// What a test varies. A batch of B of K sequences, and a memory of M slots of the same or of other K ones.
struct Setting {
  int B = 20, L = 12, H = 5, K = 24, M = 40, first = 1;
  std::vector<float> eta_R = {10};
  std::vector<int> active_R = {};  // all
  bool clamped = false, retrieval = false;
  int parts = 0, spare = 0;  // D beyond M
  float deviation = 1;       // of the logits
  std::function<SequenceTable(int)> table = {}, memory_table = {};

  int R() const { return static_cast<int>(eta_R.size()); }
  bool active(int r) const { return active_R.empty() || active_R[product(r)]; }
  DamCudaShape shape() const { return {{R(), B, L, first}, H, (retrieval ? K : std::max(M, 1)) + spare, clamped, retrieval, parts}; }
  std::size_t size_A() const { return product(L, H, L); }
  std::size_t size_B() const { return product(H, L); }
};

/// A replica on the CPU.
struct Replica {
  SequenceTable table, memory_table;
  std::vector<std::int32_t> drawn;
  Cells cells;
  std::vector<StoredSequence> stored;
  std::vector<float> A, B;

  Replica(const Setting& s, int r)
      : table(s.table ? s.table(r) : SequenceTable::random(static_cast<std::uint32_t>(r) + 5, 0, s.K, s.L)),
        memory_table(s.memory_table ? s.memory_table(r) : table) {
    simt::Random random{std::mt19937(static_cast<unsigned>(r))};
    for (int b = 0; b < s.B; ++b) drawn.push_back(random.below(random.below(s.K) + 1));  // uneven
    cells = cells_of_batch(table, drawn, Sharing::prefixes, s.first);
    std::map<int, int> count;
    for (int m = 0; m < s.M; ++m) ++count[random.below(static_cast<int>(memory_table.num_sequences()))];
    if (s.retrieval) {
      count.clear();
      for (int rank = 0; rank < s.K; ++rank) count[rank] = 1;
    }
    for (const auto& [rank, slots] : count) stored.push_back({memory_table.row(rank).data(), slots});
    A = random.normals(s.size_A(), s.deviation), B = random.normals(s.size_B(), s.deviation);
  }
};

template <class Real>
struct Answer {
  double loss = std::log(2.0), accuracy = 0.5;  // of an empty memory
  std::vector<Real> dA, dB;
  std::vector<Real> logits;             // by cell, or empty
  std::vector<Real> losses, accuracies; // of retrieval, by row and position
};

template <class Real>
Answer<Real> on_cpu(const Setting& s, const Replica& replica, int r) {
  Answer<Real> answer;
  answer.dA.assign(s.size_A(), 0), answer.dB.assign(s.size_B(), 0), answer.logits.assign(replica.cells.row.size(), 0);
  if (replica.stored.empty()) return answer;
  const std::vector<Real> A(replica.A.begin(), replica.A.end()), B(replica.B.begin(), replica.B.end());
  DamRetrieval<Real> op({s.H, s.L, static_cast<double>(s.eta_R[product(r)]), s.clamped, s.retrieval});
  const auto result = op.gradient({A.data(), B.data()}, {answer.dA.data(), answer.dB.data()}, replica.stored, replica.cells, replica.table);
  answer.loss = result.loss, answer.accuracy = result.accuracy;
  if (s.retrieval) {
    answer.losses.resize(replica.cells.cell_of.size()), answer.accuracies.resize(replica.cells.cell_of.size());
    op.identify({A.data(), B.data()}, replica.stored, replica.cells, replica.table, answer.losses.data(), answer.accuracies.data());
  } else {
    op.logits({A.data(), B.data()}, replica.stored, replica.cells, replica.table, answer.logits.data());
    for (auto& z : answer.logits) {
      const auto limit = static_cast<Real>(kDamLogitLimit);
      if (s.clamped) z = std::clamp(z, -limit, limit);
    }
  }
  return answer;
}

/// All of a step on the device, in arrays of exactly their size.
class OnDevice {
 public:
  OnDevice(const Setting& s, const std::vector<Replica>& replicas) : s_(s), shape_(s.shape()), replicas_(replicas) {
    const auto& batch = shape_.batch;
    const auto R = product(s.R()), N = product(batch.capacity()), W = product(batch.words()), D = product(shape_.distinct), G = product(batch.groups());
    std::vector<std::int32_t> num_rows(R, 0), first(R * (G + 1), 0), rank(R * product(s.B), -1), count = rank, row(R * N, -1), mass(R * N * 2, -1);
    std::vector<std::uint64_t> bits(R * product(s.B) * W, ~std::uint64_t{0}), words(R * D * W, ~std::uint64_t{0});
    std::vector<std::int32_t> num_stored(R), stored_count(R * D, -1);
    std::vector<float> log_count(R * D, simt::kNan), parameters(R * stride(), simt::kNan);
    cells_.resize(R);
    for (std::size_t r = 0; r < R; ++r) {
      const auto& replica = replicas[r];
      num_stored[r] = static_cast<std::int32_t>(replica.stored.size());
      for (std::size_t d = 0; d < replica.stored.size(); ++d) {
        std::copy_n(replica.stored[d].bits, W, &words[(r * D + d) * W]);
        stored_count[r * D + d] = static_cast<std::int32_t>(replica.stored[d].count);
        log_count[r * D + d] = std::log(static_cast<float>(replica.stored[d].count));
      }
      std::copy(replica.A.begin(), replica.A.end(), &parameters[r * stride() + 1]);
      std::copy(replica.B.begin(), replica.B.end(), &parameters[r * stride() + 2 + s.size_A()]);
      if (!s.active(static_cast<int>(r))) continue;
      const auto& cells = replica.cells;
      num_rows[r] = static_cast<std::int32_t>(cells.num_rows());
      for (std::size_t u = 0; u < cells.ranks.size(); ++u) {
        std::copy_n(replica.table.row(cells.ranks[u]).data(), W, &bits[(r * product(s.B) + u) * W]);
        rank[r * product(s.B) + u] = cells.ranks[u];
        count[r * product(s.B) + u] = static_cast<std::int32_t>(std::lround(cells.row_weight[u] * s.B));
      }
      std::map<std::pair<int, int>, std::size_t> by_group;  // (group, row): index in Cells
      for (std::size_t i = 0; i < cells.row.size(); ++i) {
        const auto n = cells.position[i] + s.first;
        const bool last = n > 0 && replica.table.bit(cells.ranks[product(cells.row[i])], n - 1);
        by_group[{2 * cells.position[i] + last, cells.row[i]}] = i;
        for (auto g = product(2 * cells.position[i] + last + 1); g <= G; ++g) ++first[r * (G + 1) + g];
      }
      for (const auto& [key, i] : by_group) {
        const auto at = r * N + cells_[r].size();
        row[at] = cells.row[i];
        for (const std::size_t next : {0, 1}) mass[2 * at + next] = static_cast<std::int32_t>(std::lround(cells.weight[2 * i + next] * batch.capacity()));
        cells_[r].push_back(i);
      }
    }
    num_rows_.emplace(num_rows), first_.emplace(first), rank_.emplace(rank), count_.emplace(count), row_.emplace(row), mass_.emplace(mass);
    bits_.emplace(bits), words_.emplace(words), num_stored_.emplace(num_stored), stored_count_.emplace(stored_count), log_count_.emplace(log_count);
    parameters_.emplace(parameters), eta_.emplace(s.eta_R);
  }

  /// Loss and accuracy, the gradient, and which replicas learn.
  auto gradient() {
    const Device<double> loss(product(s_.R())), accuracy(product(s_.R()));
    const Device<float> gradient(product(s_.R()) * stride());
    const Device<std::uint8_t> learns(product(s_.R()));
    const Device<unsigned char> work(dam_cuda_work(shape_));
    auto step = view(work);
    step.dA_logits = gradient + 1, step.dB_logits = gradient + 2 + s_.size_A();
    step.loss_R = loss, step.accuracy_R = accuracy, step.learns_R = learns;
    dam_gradient_cuda(step, nullptr);
    return std::tuple(loss.host(), accuracy.host(), gradient.host(), learns.host());
  }
  std::vector<float> logits() {
    const Device<float> logits(product(s_.R(), shape_.batch.capacity()));
    const Device<unsigned char> work(dam_cuda_work(shape_));
    dam_logits_cuda(view(work), logits, nullptr);
    return logits.host();
  }
  std::pair<std::vector<float>, std::vector<float>> identify() {
    const Device<float> loss(product(s_.R(), shape_.batch.capacity())), accuracy(product(s_.R(), shape_.batch.capacity()));
    const Device<unsigned char> work(dam_cuda_work(shape_));
    dam_identify_cuda(view(work), loss, accuracy, nullptr);
    return {loss.host(), accuracy.host()};
  }

  /// Of the weights in a row of parameters: A_logits behind one float of something else, B_logits behind another, and one more.
  std::size_t stride() const { return s_.size_A() + s_.size_B() + 3; }
  /// The index in Cells of each cell of a replica.
  const std::vector<std::size_t>& cells(int r) const { return cells_[product(r)]; }

 private:
  DamCudaStep view(unsigned char* work) {
    DamCudaStep step{};
    step.shape = shape_;
    step.cells = {shape_.batch, *num_rows_, *first_, *bits_, *rank_, *count_, *row_, *mass_};
    step.memory = {shape_.distinct, *num_stored_, *words_, *stored_count_, *log_count_};
    step.eta_R = *eta_;
    step.A_logits = *parameters_ + 1, step.B_logits = *parameters_ + 2 + s_.size_A(), step.stride = stride();
    step.work = work;
    return step;
  }

  const Setting& s_;
  DamCudaShape shape_;
  const std::vector<Replica>& replicas_;
  std::vector<std::vector<std::size_t>> cells_;
  std::optional<Device<std::int32_t>> num_rows_, first_, rank_, count_, row_, mass_, num_stored_, stored_count_;
  std::optional<Device<std::uint64_t>> bits_, words_;
  std::optional<Device<float>> log_count_, parameters_, eta_;
};

std::vector<Replica> replicas_of(const Setting& s) {
  std::vector<Replica> replicas;
  for (int r = 0; r < s.R(); ++r) replicas.emplace_back(s, r);
  return replicas;
}

/// The 2-norm of the error of `got` is at most twice that of the CPU's float32 form, or that of half a unit in the last place of all.
template <class Got>
void expect_as_exact(const std::string& what, const Got& got, const std::vector<float>& plain, const std::vector<double>& exact) {
  double error = 0, plain_error = 0, size = 0;
  for (std::size_t i = 0; i < exact.size(); ++i) {
    if (exact[i] == static_cast<double>(got[i])) continue;  // infinite perhaps
    error += std::pow(static_cast<double>(got[i]) - exact[i], 2), size += exact[i] * exact[i];
    plain_error += std::pow(static_cast<double>(plain[i]) - exact[i], 2);
  }
  if (getenv("SHOW")) printf("%-20s error %.2e  plain %.2e  ratio %.2f  of %.2e\n", what.c_str(), std::sqrt(error), std::sqrt(plain_error), std::sqrt(error / plain_error), std::sqrt(size));
  EXPECT_LE(std::sqrt(error), 2 * std::sqrt(plain_error) + 6e-8 * std::sqrt(size)) << what << ", of a tensor of size " << std::sqrt(size);
}

void expect_agreement(const Setting& s) {
  const auto replicas = replicas_of(s);
  OnDevice device(s, replicas);
  const auto [loss, accuracy, gradient, learns] = device.gradient();
  const auto N = product(s.shape().batch.capacity()), stride = device.stride();
  const auto logits = s.retrieval ? std::vector<float>() : device.logits();
  const auto named = s.retrieval ? device.identify() : std::pair<std::vector<float>, std::vector<float>>();
  for (int r = 0; r < s.R(); ++r) {
    SCOPED_TRACE("replica " + std::to_string(r));
    const auto& replica = replicas[product(r)];
    const auto* row = &gradient[product(r) * stride];
    for (const auto beside : {std::size_t{0}, 1 + s.size_A(), stride - 1}) EXPECT_TRUE(std::isnan(row[beside]));
    EXPECT_EQ(learns[product(r)], s.active(r) && !replica.stored.empty());
    if (!s.active(r)) {
      EXPECT_EQ(loss[product(r)], 0);
      for (std::size_t i = 0; i < s.size_A(); ++i) ASSERT_EQ(row[1 + i], 0);
      for (std::size_t i = 0; i < s.size_B(); ++i) ASSERT_EQ(row[2 + s.size_A() + i], 0);
      continue;
    }
    const auto exact = on_cpu<double>(s, replica, r);
    const auto plain = on_cpu<float>(s, replica, r);
    expect_as_exact("dA", row + 1, plain.dA, exact.dA);
    expect_as_exact("dB", row + 2 + s.size_A(), plain.dB, exact.dB);
    EXPECT_NEAR(loss[product(r)], exact.loss, 2 * std::abs(plain.loss - exact.loss) + 1e-7 * exact.loss);
    EXPECT_NEAR(accuracy[product(r)], exact.accuracy, 1e-6);
    for (int n = 0; n < s.L; ++n) {  // exactly 0 where A has no entry
      for (int i = 0; i < s.H * s.L; ++i) {
        if (i % s.L >= n) {
          ASSERT_EQ(row[1 + product(n, s.H, s.L) + product(i)], 0);
        }
      }
    }
    if (s.retrieval) {
      expect_as_exact("losses", &named.first[product(r) * N], plain.losses, exact.losses);
      expect_as_exact("accuracies", &named.second[product(r) * N], plain.accuracies, exact.accuracies);
    } else {
      std::vector<double> exact_logits;
      std::vector<float> plain_logits;
      for (const auto i : device.cells(r)) exact_logits.push_back(exact.logits[i]), plain_logits.push_back(plain.logits[i]);
      expect_as_exact("logits", &logits[product(r) * N], plain_logits, exact_logits);
    }
  }
}

TEST(DamCuda, AgreesWithTheCpu) {
  expect_agreement({});
  expect_agreement({.M = 9});
  expect_agreement({.M = 200});
}

TEST(DamCuda, InverseTemperatures) {
  for (const int H : {1, 6, 30}) expect_agreement({.H = H, .eta_R = {1, 10, 100}});
}

TEST(DamCuda, Retrieval) {
  expect_agreement({.eta_R = {1, 10, 100}, .retrieval = true});
}

}  // namespace
}  // namespace mnemo
