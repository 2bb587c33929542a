// The kernels of the dense associative memory against its form for the CPU, which the plain form specifies.

#include "models/ops/dam_cuda.h"

#include "core/batches.h"
#include "models/ops/dam_retrieval.h"
#include "plain_queue.h"
#include "simt_test.h"

#include <cmath>
#include <functional>
#include <map>
#include <memory>
#include <optional>

namespace mnemo {
namespace {

using simt::Device;

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
  std::vector<Real> logits;              // by cell, or empty
  std::vector<Real> losses, accuracies;  // of retrieval, by row and position
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
    const auto R = product(s.R()), N = product(batch.capacity()), W = product(batch.words()), D = product(shape_.distinct),
               G = product(batch.groups());
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
        for (const std::size_t next : {0, 1})
          mass[2 * at + next] = static_cast<std::int32_t>(std::lround(cells.weight[2 * i + next] * batch.capacity()));
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

/// 2-norms of the errors of a tensor and of the CPU's float32 form of it, and of itself.
struct Errors {
  double error = 0, plain = 0, size = 0;

  template <class Got>
  Errors(const Got& got, const std::vector<float>& in_float, const std::vector<double>& exact) {
    for (std::size_t i = 0; i < exact.size(); ++i) {
      if (exact[i] == static_cast<double>(got[i]) && std::isinf(exact[i])) continue;
      error += std::pow(static_cast<double>(got[i]) - exact[i], 2), size += exact[i] * exact[i];
      plain += std::pow(static_cast<double>(in_float[i]) - exact[i], 2);
    }
    error = std::sqrt(error), plain = std::sqrt(plain), size = std::sqrt(size);
  }
  double ratio() const { return error / plain; }
  /// At most twice the plain form's, by chance a rounding more: of the tensor, and, for gradients, of the scores, which are about as large as eta and
  /// whose errors are relative errors of probabilities.
  void expect_small(const char* tensor, float score = 0) const {
    EXPECT_LE(error, 2 * plain + 6e-8 * (1 + static_cast<double>(score)) * size)
        << tensor << " of size " << size << ", the float32 form's error " << plain;
  }
};

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
    Errors(row + 1, plain.dA, exact.dA).expect_small("dA", s.eta_R[product(r)]);
    Errors(row + 2 + s.size_A(), plain.dB, exact.dB).expect_small("dB", s.eta_R[product(r)]);
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
      Errors(&named.first[product(r) * N], plain.losses, exact.losses).expect_small("losses");
      Errors(&named.second[product(r) * N], plain.accuracies, exact.accuracies).expect_small("accuracies");
    } else {
      std::vector<double> exact_logits;
      std::vector<float> plain_logits;
      for (const auto i : device.cells(r)) exact_logits.push_back(exact.logits[i]), plain_logits.push_back(plain.logits[i]);
      Errors(&logits[product(r) * N], plain_logits, exact_logits).expect_small("logits");
    }
  }
}

/// A table whose bits bit(row, position) gives.
std::function<SequenceTable(int)> table_of(int K, int L, const std::function<int(int, int)>& bit) {
  return [=](int) {
    std::vector<std::uint8_t> bits;
    for (int k = 0; k < K; ++k) {
      for (int l = 0; l < L; ++l) bits.push_back(static_cast<std::uint8_t>(bit(k, l)));
    }
    return SequenceTable::from_array(view_of(bits.data(), {K, L}));
  };
}

int random_bit(int k, int l) { return static_cast<int>(std::mt19937(static_cast<unsigned>(1000 * k + l))() >> 7 & 1); }

TEST(DamCuda, AgreesWithTheCpu) {
  expect_agreement({});
  expect_agreement({.M = 9});    // fewer than there are sequences
  expect_agreement({.M = 200});  // several tiles of stored sequences, with counts
}

TEST(DamCuda, InverseTemperatures) {
  if (simt::kTsan) GTEST_SKIP() << "no other code";
  for (const int H : {1, 6, 30}) expect_agreement({.H = H, .eta_R = {1, 10, 100}});
}

/// One tensor's error is a matter of luck, that of many is not.
TEST(DamCuda, ErrorsAreThoseOfFloat32) {
  if (simt::kTsan) GTEST_SKIP() << "no other code";
  for (const float eta : {1.F, 10.F, 100.F}) {
    const Setting s{.eta_R = std::vector<float>(16, eta)};
    const auto replicas = replicas_of(s);
    OnDevice device(s, replicas);
    const auto gradient = std::get<2>(device.gradient());
    double log_A = 0, log_B = 0;
    for (int r = 0; r < s.R(); ++r) {
      const auto plain = on_cpu<float>(s, replicas[product(r)], r);
      const auto exact = on_cpu<double>(s, replicas[product(r)], r);
      const auto* row = &gradient[product(r) * device.stride()];
      log_A += std::log(Errors(row + 1, plain.dA, exact.dA).ratio()) / s.R();
      log_B += std::log(Errors(row + 2 + s.size_A(), plain.dB, exact.dB).ratio()) / s.R();
    }
    EXPECT_LE(std::exp(log_A), 2) << "eta " << eta;
    EXPECT_LE(std::exp(log_B), 2) << "eta " << eta;
  }
}

TEST(DamCuda, ReplicasThatTakeNoPart) {
  expect_agreement({.eta_R = {3, 10, 30}, .active_R = {1, 0, 1}});
  expect_agreement({.eta_R = {3, 10}, .active_R = {0, 0}, .retrieval = true});
}

TEST(DamCuda, Sizes) {
  expect_agreement({.B = 1, .L = 2, .H = 1, .K = 2, .M = 3});
  expect_agreement({.B = 1, .L = 2, .H = 1, .K = 2, .M = 3, .first = 0});
  expect_agreement({.B = 90, .L = 9, .H = 3, .K = 300, .M = 70});  // more cells of a position than a block has
  expect_agreement({.B = 70, .L = 5, .H = 70, .K = 20});           // products of several squares; cells that stand for many rows
}

TEST(DamCuda, Lengths) {
  for (const int L : {31, 33, 64, 70, 128}) {
    if (simt::kTsan && L != 33) continue;
    SCOPED_TRACE(L);
    expect_agreement({.B = 2, .L = L, .H = 2, .K = 40, .M = 50});
  }
}

TEST(DamCuda, RetrievalOfSequencesOfTwoWords) { expect_agreement({.B = 6, .L = 70, .H = 1, .K = 8, .retrieval = true}); }

TEST(DamCuda, LongSequences) {
  if (simt::kTsan) GTEST_SKIP() << "no other code, but many threads";
  for (const int L : {200, 270}) expect_agreement({.B = 1, .L = L, .H = 1, .K = 20});
  expect_agreement({.B = 1, .L = 200, .H = 1, .K = 20, .retrieval = true});
}

TEST(DamCuda, Memories) {
  if (simt::kTsan) GTEST_SKIP() << "no other code";
  for (const bool clamped : {false, true}) {
    for (const int first : {0, 1}) {
      SCOPED_TRACE(testing::Message() << "clamped " << clamped << ", first predicted bit " << first);
      expect_agreement({.M = 1, .first = first, .clamped = clamped});
      expect_agreement({.M = 0, .first = first, .clamped = clamped});
      expect_agreement({.first = first, .eta_R = {1, 100}, .clamped = clamped});  // losses beyond the limit
      // from position 4 on all stored sequences go on with 1
      expect_agreement(
          {.M = 50, .first = first, .clamped = clamped, .memory_table = table_of(60, 12, [](int k, int l) { return l >= 4 || random_bit(k, l); })});
    }
  }
}

/// Where no bit is known the counts decide, and equal counts are a tie.
TEST(DamCuda, TheFirstBit) {
  const auto halves = table_of(24, 12, [](int k, int l) { return l == 0 ? k % 2 : random_bit(k / 2, l); });
  const Setting s{.M = 0, .first = 0, .table = halves};
  auto replicas = replicas_of(s);
  for (int k = 0; k < 24; ++k) replicas[0].stored.push_back({replicas[0].table.row(k).data(), 1 + k / 2});
  auto room = s;
  room.M = 24;
  EXPECT_EQ(OnDevice(room, replicas).logits()[0], 0);
  replicas[0].stored[7].count += 2 * 78;
  EXPECT_FLOAT_EQ(OnDevice(room, replicas).logits()[0], std::log(3.F));
}

TEST(DamCuda, Retrieval) {
  expect_agreement({.eta_R = {1, 10, 100}, .retrieval = true});
  for (const int first : {0, 1}) {
    expect_agreement(
        {.B = 90, .L = 8, .H = 2, .K = 80, .first = first, .retrieval = true, .parts = 2});  // a cell stands for more rows than a warp has lanes
  }
  // sequences that are there twice or three times: ties
  expect_agreement(
      {.B = 12, .L = 7, .K = 20, .first = 0, .retrieval = true, .table = table_of(20, 7, [](int k, int l) { return random_bit(k % 8, l); })});
}

TEST(DamCuda, NoOrderOfThreadsMatters) {
  for (const bool retrieval : {false, true}) {
    const Setting s{.B = 20, .L = 6, .H = 3, .K = 70, .M = 150, .first = 0, .eta_R = {10, 20}, .retrieval = retrieval, .parts = 2};
    const auto replicas = replicas_of(s);
    simt::in_every_order([&] { return OnDevice(s, replicas).gradient(); });
  }
}

/// Parts change only the order of sums; spare capacity changes nothing.
TEST(DamCuda, PartsAndCapacity) {
  for (const bool retrieval : {false, true}) {
    for (const int parts : {1, 2, 3, 7}) {
      if (simt::kTsan && parts != 3) continue;
      const Setting s{.L = 8, .K = 130, .M = 170, .retrieval = retrieval, .parts = parts};
      expect_agreement(s);
      const auto replicas = replicas_of(s);
      auto roomy = s;
      roomy.spare = 77;
      EXPECT_TRUE(simt::same_bits(OnDevice(roomy, replicas).gradient(), OnDevice(s, replicas).gradient()));
    }
  }
}

TEST(DamCuda, AReplicaOfAPackEqualsTheSameAlone) {
  if (simt::kTsan) GTEST_SKIP() << "no other code";
  for (const bool retrieval : {false, true}) {
    const Setting s{.eta_R = {1, 10, 100}, .retrieval = retrieval};
    const auto replicas = replicas_of(s);
    OnDevice pack(s, replicas);
    const auto all = std::get<2>(pack.gradient());
    for (int r = 0; r < 3; ++r) {
      auto one = s;
      one.eta_R = {s.eta_R[product(r)]};
      const std::vector<Replica> alone = {replicas[product(r)]};
      const auto* row = &all[product(r) * pack.stride()];
      EXPECT_TRUE(simt::same_bits(std::get<2>(OnDevice(one, alone).gradient()), std::vector<float>(row, row + pack.stride())));
    }
  }
}

/// A replica that has diverged shows it, and leaves its neighbour alone.
TEST(DamCuda, NaNShows) {
  if (simt::kTsan) GTEST_SKIP() << "no other code";
  for (const bool retrieval : {false, true}) {
    const Setting s{.eta_R = {10, 10}, .retrieval = retrieval};
    auto replicas = replicas_of(s);
    replicas[0].B[7] = simt::kNan;
    const auto [loss, accuracy, gradient, learns] = OnDevice(s, replicas).gradient();
    EXPECT_TRUE(std::isnan(loss[0]));
    EXPECT_TRUE(std::isnan(gradient[2 + s.size_A()]));
    EXPECT_NEAR(loss[1], on_cpu<double>(s, replicas[1], 1).loss, 1e-6);
  }
}

#ifndef __CUDACC__
TEST(DamCuda, AStepIsEightLaunches) {
  const Setting s{.B = 3, .L = 5};
  const auto replicas = replicas_of(s);
  EXPECT_EQ(simt::launched_by([&] { OnDevice(s, replicas).gradient(); }).size(), 8);
}
#endif

TEST(DamCuda, RefusesWhatItCannot) {
  EXPECT_THROW(dam_cuda_work({{1, 2, kDamCudaMaxLength + 1}, 2, 3}), std::invalid_argument);
  EXPECT_THROW(dam_cuda_work({{1, 2, 5}, 0, 3}), std::invalid_argument);
}

}  // namespace
}  // namespace mnemo
