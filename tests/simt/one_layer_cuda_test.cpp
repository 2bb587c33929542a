#include "models/ops/one_layer_cuda.h"

#include "../models/ops/one_layer_oracle.h"
#include "core/batches.h"
#include "models/ops/cuda_gemm.cuh"
#include "models/ops/one_layer_cuda_arguments.h"
#include "models/ops/one_layer_step.h"
#include "simt_test.h"

#include <sanitizer/asan_interface.h>

#include <cmath>
#include <numeric>
#include <set>

// The kernels of models/ops/one_layer_cuda against the step on the CPU in float64, and against the oracle, a direct loop, where that step refuses.

namespace mnemo {
namespace {

using oracle::Tensors;
using simt::Device;
using Rows = std::vector<std::vector<int>>;
using Squares = OneLayerCudaShape::Squares;

/// What a replica trains on: rows as drawn, with repeats. None: it takes no part.
struct Replica {
  Rows rows;
  Tensors<float> weights;
};

struct Case {
  OneLayerShape shape;
  std::vector<Replica> replicas;
  bool fuse = true;
  Squares squares = Squares::by_size;
};

/// Distinct ranks in lexicographic order and their counts are what cells are made of.
struct HostCells {
  SequenceTable table;
  Cells cells;
  std::vector<int> count;  // of each row
};

HostCells cells_of(const Rows& rows) {
  const auto flat = [](const auto& each) {
    std::vector<std::uint8_t> bits;
    for (const auto& row : each) bits.insert(bits.end(), row.begin(), row.end());
    return bits;
  };
  const std::set<std::vector<int>> distinct(rows.begin(), rows.end());  // lexicographic
  const auto bits = flat(distinct);
  auto table = SequenceTable::from_array(view_of(bits.data(), {std::int64_t(distinct.size()), std::int64_t(rows[0].size())}));
  std::vector<std::int32_t> drawn;
  for (const auto& row : rows) drawn.push_back(std::int32_t(std::distance(distinct.begin(), distinct.find(row))));
  auto cells = cells_of_batch(table, drawn);
  std::vector<int> count;
  for (const auto rank : cells.ranks) count.push_back(int(std::count(drawn.begin(), drawn.end(), rank)));
  return {std::move(table), std::move(cells), std::move(count)};
}

/// The cells of a replica as core/device_cells.h orders them, and where each stands in `cells`.
struct GroupedCells {
  std::vector<std::int32_t> first, row, mass, order;
};

GroupedCells grouped(const HostCells& host, int batch) {
  const auto& cells = host.cells;
  const auto group_of = [&](std::int32_t n) {
    const auto position = cells.position[std::size_t(n)];
    return 2 * position + int(host.table.bit(cells.ranks[std::size_t(cells.row[std::size_t(n)])], position));
  };
  GroupedCells result;
  result.order.resize(std::size_t(cells.num_cells()));
  std::iota(result.order.begin(), result.order.end(), 0);
  std::stable_sort(result.order.begin(), result.order.end(), [&](auto a, auto b) { return group_of(a) < group_of(b); });
  result.first.assign(std::size_t(2 * cells.num_positions() + 1), 0);
  for (const auto n : result.order) {
    ++result.first[std::size_t(group_of(n) + 1)];
    result.row.push_back(cells.row[std::size_t(n)]);
    for (int bit = 0; bit < 2; ++bit) {
      result.mass.push_back(int(std::lround(cells.weight[std::size_t(2 * n + bit)] * batch * double(cells.num_positions()))));
    }
  }
  std::partial_sum(result.first.begin(), result.first.end(), result.first.begin());
  return result;
}

struct Answer {
  std::vector<float> logits, gradient;  // [R, N], what is past a replica's cells NaN; [R, row size]
  std::vector<double> loss, accuracy;
};

std::vector<std::string> names_in_order(const OneLayerShape& shape) {
  std::vector<std::string> names{"wte.weight", "wpe.weight", "c_attn.weight", "c_attn.bias", "ln_f.weight", "ln_f.bias"};
  for (std::int64_t j = 0; j < shape.mlp_layers; ++j) {
    for (const auto* what : {".weight", ".bias"}) names.push_back("linear_modules." + std::to_string(j) + what);
  }
  names.insert(names.end(), {"lm_head.weight", "lm_head.bias"});
  return names;
}

OneLayerOffsets offsets_of(const OneLayerShape& shape, std::size_t& row_size) {
  const auto sizes = oracle::sizes_of(shape);
  std::vector<std::size_t> at{0};
  for (const auto& name : names_in_order(shape)) at.push_back(at.back() + std::size_t(sizes.at(name)));
  row_size = at.back();
  OneLayerOffsets offsets{at[0], at[1], at[2], at[3], at[4], at[5], {}, {}, at[at.size() - 3], at[at.size() - 2]};
  for (std::size_t j = 0; j < std::size_t(shape.mlp_layers); ++j) offsets.mlp_weight[j] = at[6 + 2 * j], offsets.mlp_bias[j] = at[7 + 2 * j];
  return offsets;
}

/// Work space whose pieces ASan guards one from the other.
class Work {
 public:
  explicit Work(OneLayerCudaStep& step) : bytes_(one_layer_cuda_work(step.shape, step.cells.shape)) {
    step.work = bytes_;
    one_layer::Arguments arguments{};
    arguments.step = step;
    one_layer::lay_out(arguments);
    one_layer::each_piece(arguments, [&](auto* piece, std::size_t count) {
      auto* const begin = reinterpret_cast<unsigned char*>(piece);
      const auto size = count * sizeof *piece;
      ASAN_POISON_MEMORY_REGION(begin + size, 256 - size % 256);
    });
  }

 private:
  Device<unsigned char> bytes_;
};

/// The kernels' answer with room for `batch` draws a replica; masses are counted in `draws`.
Answer run(const Case& c, int batch, bool tf32 = false, bool with_logits = true) {
  const auto& shape = c.shape;
  const auto R = c.replicas.size(), L = std::size_t(shape.length), P = L - 1, N = std::size_t(batch) * P, W = (L + 63) / 64;
  DeviceBatchShape sizes{int(R), batch, int(L)};
  std::vector<std::int32_t> num_rows, first, rank(R * std::size_t(batch), -1), count(rank), row(R * N, -1), mass(R * N * 2, -1);
  std::vector<std::uint64_t> bits(R * std::size_t(batch) * W, ~std::uint64_t{0});
  std::vector<float> parameters;
  for (std::size_t r = 0; r < R; ++r) {
    for (const auto& name : names_in_order(shape)) {
      const auto& values = c.replicas[r].weights.at(name);
      parameters.insert(parameters.end(), values.begin(), values.end());
    }
    if (c.replicas[r].rows.empty()) {
      num_rows.push_back(0);
      first.insert(first.end(), 2 * P + 1, 0);
      continue;
    }
    const auto host = cells_of(c.replicas[r].rows);
    const auto own = grouped(host, batch);
    num_rows.push_back(int(host.count.size()));
    first.insert(first.end(), own.first.begin(), own.first.end());
    for (std::size_t u = 0; u < host.count.size(); ++u) {
      const auto words = host.table.row(host.cells.ranks[u]);
      std::copy(words.begin(), words.end(), bits.begin() + std::ptrdiff_t((r * std::size_t(batch) + u) * W));
      rank[r * std::size_t(batch) + u] = host.cells.ranks[u], count[r * std::size_t(batch) + u] = host.count[u];
    }
    std::copy(own.row.begin(), own.row.end(), row.begin() + std::ptrdiff_t(r * N));
    std::copy(own.mass.begin(), own.mass.end(), mass.begin() + std::ptrdiff_t(r * N * 2));
  }
  const Device<std::int32_t> num_rows_(num_rows), first_(first), rank_(rank), count_(count), row_(row), mass_(mass);
  const Device<std::uint64_t> bits_(bits);
  const Device<float> parameters_(parameters), gradient(parameters.size()), logits(R * N);
  const Device<double> loss(R), accuracy(R);
  OneLayerCudaStep step{};
  step.shape = {int(shape.heads), int(shape.head_dim), int(shape.mlp_width), int(shape.mlp_layers), c.fuse, c.squares};
  step.cells = {sizes, num_rows_, first_, bits_, rank_, count_, row_, mass_};
  step.offsets = offsets_of(shape, step.row_size);
  step.parameters_RP = parameters_, step.gradient_RP = gradient, step.loss_R = loss, step.accuracy_R = accuracy, step.tf32 = tf32;
  const Work work(step);
  one_layer_gradient_cuda(step, nullptr);
  if (with_logits) {
    const Work other_work(step);
    one_layer_logits_cuda(step, logits, nullptr);
  }
  return {logits.host(), gradient.host(), loss.host(), accuracy.host()};
}

/// A replica's part of an answer; logits in the order of cells_of(), which is by row.
struct Part {
  double loss = 0, accuracy = 0;
  std::vector<double> logits;
  Tensors<double> gradient;
};

Part part_of(const Case& c, const Answer& answer, std::size_t r) {
  Part part{answer.loss[r], answer.accuracy[r], {}, {}};
  const auto R = c.replicas.size();
  auto from = answer.gradient.begin() + std::ptrdiff_t(r * answer.gradient.size() / R);
  const auto sizes = oracle::sizes_of(c.shape);
  for (const auto& name : names_in_order(c.shape)) {
    part.gradient[name].assign(from, from + sizes.at(name));
    from += sizes.at(name);
  }
  const float* const logits = answer.logits.data() + r * answer.logits.size() / R;
  if (c.replicas[r].rows.empty()) return part;
  const auto order = grouped(cells_of(c.replicas[r].rows), 1).order;
  part.logits.resize(order.size());
  for (std::size_t n = 0; n < order.size(); ++n) part.logits[std::size_t(order[n])] = logits[n];
  return part;
}

/// The step on the CPU; nothing where its guard refuses.
template <class Real>
std::optional<Part> on_the_cpu(const OneLayerShape& shape, const Replica& replica) {
  const auto host = cells_of(replica.rows);
  const auto weights = oracle::cast<Real>(replica.weights);
  auto gradient = oracle::zeros<Real>(shape);
  OneLayerStep<Real> step(shape);
  const auto pointers = oracle::pointers<const Real>(weights, shape);
  const auto result = step.gradient(pointers, oracle::pointers<Real>(gradient, shape), host.cells, host.table);
  std::vector<Real> logits(std::size_t(host.cells.num_cells()));
  if (!result || !step.logits(pointers, host.cells, host.table, logits.data())) return {};
  return Part{result->loss, result->accuracy, {logits.begin(), logits.end()}, oracle::cast<double>(gradient)};
}

/// The direct loop over the rows.
template <class Real>
Part plainly(const OneLayerShape& shape, const Replica& replica) {
  const auto host = cells_of(replica.rows);
  Rows distinct;
  std::vector<double> weight;
  for (std::size_t u = 0; u < host.count.size(); ++u) {
    distinct.emplace_back();
    for (int i = 0; i < shape.length; ++i) distinct.back().push_back(host.table.bit(host.cells.ranks[u], i));
    weight.push_back(host.count[u] / double(replica.rows.size()));
  }
  auto gradient = oracle::zeros<Real>(shape);
  const auto outcome = oracle::step(shape, oracle::cast<Real>(replica.weights), distinct, weight, gradient);
  Part part{outcome.loss, outcome.accuracy, std::vector<double>(std::size_t(host.cells.num_cells())), oracle::cast<double>(gradient)};
  for (std::size_t i = 0; i < host.cells.cell_of.size(); ++i) part.logits[std::size_t(host.cells.cell_of[i])] = outcome.logits[i];
  return part;
}

double norm(const std::vector<double>& a) { return std::sqrt(std::inner_product(a.begin(), a.end(), a.begin(), 0.0)); }
double distance(std::vector<double> a, const std::vector<double>& b) {
  for (std::size_t i = 0; i < a.size(); ++i) a[i] -= b[i];
  return norm(a);
}

/// Errors relative to the tensor's norm: at most twice that of `peer`, another float32 form, or `floor`. The key bias has no gradient, only noise,
/// and is left out.
void expect_near(const OneLayerShape& shape, const Part& got, const Part& exact, const Part& peer, double floor, const std::string& what) {
  const auto near = [&](const std::string& name, const auto& pick, double scale) {
    const double error = distance(pick(got), pick(exact)) / scale, allowed = std::max(2 * distance(pick(peer), pick(exact)) / scale, floor);
    EXPECT_LE(error, allowed) << what << " " << name << " of size " << scale;
  };
  const auto scalar = [&](const std::string& name, double Part::*member) {
    near(
        name, [&](const Part& p) { return std::vector<double>{p.*member}; }, 1);
  };
  scalar("loss", &Part::loss);
  near(
      "logits", [](const Part& p) { return p.logits; }, std::max(norm(exact.logits), 1e-30));
  const auto C = shape.heads * shape.head_dim;
  for (const auto& [name, values] : exact.gradient) {
    const auto pick = [&, key = name](const Part& p) {
      auto picked = p.gradient.at(key);
      if (key == "c_attn.bias") std::fill(picked.begin() + C, picked.begin() + 2 * C, 0);
      return picked;
    };
    near(name, pick, std::max(norm(values), 1e-30));
  }
}

struct Draw {
  std::mt19937 bits;

  Tensors<float> weights(const OneLayerShape& shape, float std, float attention_scale = 1) {
    auto weights = oracle::zeros<float>(shape);
    std::normal_distribution<float> normal;
    for (auto& [name, values] : weights) {
      for (auto& v : values) v = (name == "ln_f.weight" ? 1 : 0) + std * normal(bits) * (name.starts_with("c_attn.") ? attention_scale : 1);
    }
    return weights;
  }
  /// Rows of random bits, some of them repeated, some sharing a prefix.
  Rows rows(int batch, std::int64_t length) {
    Rows rows;
    for (int b = 0; b < batch; ++b) {
      if (b > 0 && bits() % 4 == 0) {
        rows.push_back(rows[bits() % rows.size()]);
        if (bits() % 2) continue;
        rows.back().back() ^= 1;
        continue;
      }
      rows.emplace_back();
      for (std::int64_t i = 0; i < length; ++i) rows.back().push_back(int(bits() >> 7 & 1));
    }
    return rows;
  }
};

Answer in_every_order(const Case& c, int batch) {
  const auto [gradient, loss, accuracy] = simt::in_every_order([&] {
    const auto answer = run(c, batch, false, false);
    return std::tuple(answer.gradient, answer.loss, answer.accuracy);
  });
  const auto once = run(c, batch);
  return {once.logits, gradient, loss, accuracy};
}

void expect_nothing(const Part& part, const std::string& what) {
  EXPECT_EQ(part.loss, 0) << what;
  EXPECT_EQ(part.accuracy, 0) << what;
  for (const auto& [name, values] : part.gradient) EXPECT_EQ(norm(values), 0) << what << " " << name;
}

/// Some units of the last place: the CPU's error may be luckily small, and it fuses products with sums, as a GPU does and the emulator does not.
constexpr double kFloor = 2e-6;

/// Every replica of a case against the CPU, in every order of threads.
void expect_as_on_the_cpu(const Case& c, const std::string& what) {
  std::size_t batch = 1;
  for (const auto& replica : c.replicas) batch = std::max(batch, replica.rows.size());
  const auto answer = in_every_order(c, static_cast<int>(batch));
  for (std::size_t r = 0; r < c.replicas.size(); ++r) {
    const auto name = what + ", replica " + std::to_string(r);
    const auto part = part_of(c, answer, r);
    if (c.replicas[r].rows.empty()) {
      expect_nothing(part, name);
      continue;
    }
    const auto exact = on_the_cpu<double>(c.shape, c.replicas[r]), peer = on_the_cpu<float>(c.shape, c.replicas[r]);
    ASSERT_TRUE(exact && peer) << name;
    EXPECT_NEAR(part.accuracy, exact->accuracy, 1e-6) << name;
    expect_near(c.shape, part, *exact, *peer, kFloor, name);
  }
}

struct Sizes {
  OneLayerShape shape;
  int batch;
  bool under_tsan = false;  // where each thread costs much: those that bring other steps of other threads
};
bool wanted(const Sizes& sizes) { return sizes.under_tsan || !simt::kTsan; }

std::string name_of(const OneLayerShape& shape) {
  return "H=" + std::to_string(shape.heads) + " F=" + std::to_string(shape.head_dim) + " D=" + std::to_string(shape.mlp_width) +
         " layers=" + std::to_string(shape.mlp_layers) + " L=" + std::to_string(shape.length);
}

TEST(OneLayerCuda, AgreesWithTheCpuForEveryShape) {
  const Sizes sizes[] = {
      {{1, 1, 2, 1, 2}, 1},          // nothing smaller
      {{3, 1, 4, 2, 3}, 5},          // heads of one
      {{2, 5, 7, 3, 9}, 6},          // C and D apart
      {{1, 3, 3, 8, 4}, 3},          // most layers
      {{2, 17, 33, 2, 4}, 4, true},  // columns in two parts, the second of z
      {{1, 5, 66, 2, 4}, 4},         // two tiles of D
      {{1, 66, 3, 1, 3}, 3},         // and of C
      {{1, 3, 2, 2, 66}, 3},         // two words of bits, three tiles of tokens
      {{1, 3, 2, 1, 34}, 2, true},   // positions in two passes
      {{1, 3, 4, 2, 8}, 150},        // several tiles of a group, several partial sums
  };
  Draw draw;
  for (const auto& each : sizes) {
    if (!wanted(each)) continue;
    const auto& [shape, batch, under_tsan] = each;
    expect_as_on_the_cpu({shape, {{draw.rows(batch, shape.length), draw.weights(shape, .4F)}}}, name_of(shape));
  }
}

TEST(OneLayerCuda, FusedOrInPassesAgreesWithTheCpu) {
  const Sizes sizes[] = {
      {{1, 1, 1, 1, 2}, 1},         // nothing smaller
      {{2, 5, 10, 3, 7}, 6},        // a width that is no multiple of 4
      {{1, 3, 3, 4, 4}, 3},         // most layers that are fused
      {{4, 16, 64, 2, 4}, 3},       // and the largest width
      {{1, 5, 5, 2, 8}, 80, true},  // several blocks of cells, several partial sums
  };
  Draw draw;
  for (const auto& each : sizes) {
    if (!wanted(each)) continue;
    const auto& [shape, batch, under_tsan] = each;
    Case c{shape, {{draw.rows(batch, shape.length), draw.weights(shape, .3F)}}};
    expect_as_on_the_cpu(c, name_of(shape) + " fused");
    c.fuse = false;
    expect_as_on_the_cpu(c, name_of(shape) + " in passes");
  }
}

TEST(OneLayerCuda, AgreesWithTheCpuAtTheFirstStep) {  // as OneLayerAttention draws its weights
  if (simt::kTsan) GTEST_SKIP() << "other numbers alone";
  Draw draw;
  const OneLayerShape shape{2, 4, 8, 3, 7};
  auto weights = draw.weights(shape, .02F);
  for (auto& [name, values] : weights) {
    if (name.ends_with("bias")) std::fill(values.begin(), values.end(), 0.F);
    if (name == "ln_f.weight") std::fill(values.begin(), values.end(), 1.F);
  }
  expect_as_on_the_cpu({shape, {{draw.rows(7, 7), weights}}}, "first step");
}

TEST(OneLayerCuda, LargeSquaresGiveTheSameBits) {
  const Sizes sizes[] = {
      {{1, 2, 3, 1, 3}, 2, true},  // nearly nothing in a square
      {{1, 3, 130, 2, 3}, 2},      // two squares of D
      {{1, 130, 3, 1, 3}, 2},      // and of C
      {{1, 3, 4, 2, 8}, 30},       // two of cells, two partial sums
  };
  Draw draw;
  for (const auto& each : sizes) {
    if (!wanted(each)) continue;
    const auto& [shape, batch, under_tsan] = each;
    const auto weights = draw.weights(shape, .3F);
    Case c{shape, {{draw.rows(batch, shape.length), weights}, {{}, weights}}, false};
    for (const bool tf32 : {false, true}) {
      const auto answer = [&](Squares squares) {
        c.squares = squares;
        const auto of = run(c, batch, tf32);
        return std::tuple(of.logits, of.gradient, of.loss);
      };
      EXPECT_TRUE(simt::same_bits(answer(Squares::large), answer(Squares::small))) << name_of(shape);
    }
  }
}

TEST(OneLayerCuda, DeadUnits) {
  if (simt::kTsan) GTEST_SKIP() << "other numbers alone";
  Draw draw;
  const OneLayerShape shape{2, 3, 6, 2, 6};
  auto weights = draw.weights(shape, .5F);
  for (const auto* bias : {"linear_modules.0.bias", "linear_modules.1.bias"}) weights[bias][1] = weights[bias][4] = -50;
  for (const bool fuse : {true, false}) {
    const Case c{shape, {{draw.rows(6, 6), weights}}, fuse};
    expect_as_on_the_cpu(c, "dead units");
    const auto part = part_of(c, run(c, 6), 0);
    EXPECT_EQ(part.gradient.at("linear_modules.0.bias")[1], 0);
    EXPECT_NE(part.gradient.at("linear_modules.0.bias")[0], 0);
  }
}

TEST(OneLayerCuda, ReplicasAreApart) {
  Draw draw;
  const OneLayerShape shape{2, 3, 6, 2, 6};
  auto unfit = draw.weights(shape, .3F);
  for (auto& [name, values] : unfit) std::fill(values.begin(), values.end(), simt::kNan);  // it diverged
  for (const bool fuse : {true, false}) {
    const Case pack{shape, {{draw.rows(8, 6), draw.weights(shape, .3F)}, {{}, unfit}, {draw.rows(8, 6), draw.weights(shape, .6F)}}, fuse};
    expect_as_on_the_cpu(pack, "pack");
    const auto of_pack = run(pack, 8);
    for (const std::size_t r : {0, 2}) {
      const Case single{shape, {pack.replicas[r]}, fuse};
      const auto in_pack = part_of(pack, of_pack, r), alone = part_of(single, run(single, 8), 0);
      EXPECT_EQ(in_pack.loss, alone.loss);
      EXPECT_EQ(in_pack.logits, alone.logits);
      EXPECT_EQ(in_pack.gradient, alone.gradient);
    }
  }
}

TEST(OneLayerCuda, WeightsThatDivergedShow) {
  if (simt::kTsan) GTEST_SKIP() << "other numbers alone";
  Draw draw;
  const OneLayerShape shape{1, 3, 3, 2, 4};
  for (const auto* name : {"wte.weight", "c_attn.weight", "ln_f.bias", "linear_modules.0.weight", "linear_modules.1.bias", "lm_head.weight"}) {
    auto weights = draw.weights(shape, .3F);
    weights[name][0] = simt::kNan;
    for (const bool fuse : {true, false}) {
      const auto answer = run({shape, {{draw.rows(3, 4), weights}}, fuse}, 3);
      EXPECT_TRUE(std::isnan(answer.loss[0])) << name;
    }
  }
}

TEST(OneLayerCuda, DoesNotDependOnTheCapacity) {  // twice the room, and masses of twice the draws: equal weights
  if (simt::kTsan) GTEST_SKIP() << "other numbers alone";
  Draw draw;
  const OneLayerShape shape{1, 6, 6, 2, 11};
  for (const bool fuse : {true, false}) {
    const Case c{shape, {{draw.rows(40, 11), draw.weights(shape, .5F)}, {draw.rows(40, 11), draw.weights(shape, .5F)}}, fuse};
    const auto tight = run(c, 40), wide = run(c, 80);
    EXPECT_TRUE(simt::same_bits(tight.gradient, wide.gradient));
    EXPECT_TRUE(simt::same_bits(tight.loss, wide.loss));
    EXPECT_TRUE(simt::same_bits(tight.accuracy, wide.accuracy));
    for (std::size_t r = 0; r < 2; ++r) EXPECT_EQ(part_of(c, tight, r).logits, part_of(c, wide, r).logits);
    const auto cells = static_cast<std::ptrdiff_t>(part_of(c, wide, 1).logits.size());
    EXPECT_GT(cells, one_layer::kFusedCells);
    EXPECT_TRUE(std::all_of(wide.logits.begin() + 80 * 10 + cells, wide.logits.end(), [](float z) { return std::isnan(z); }));
  }
}

/// Largest difference between the scores of a row, all tokens that it could see.
double span_of(const OneLayerShape& shape, const Tensors<float>& weights) {
  const auto w = oracle::cast<double>(weights);
  const auto C = static_cast<std::size_t>(shape.heads * shape.head_dim), F = static_cast<std::size_t>(shape.head_dim);
  std::vector<std::vector<double>> qkv;
  for (std::size_t token = 0; token < 2 * static_cast<std::size_t>(shape.length - 1); ++token) {
    std::vector<double> x(C);
    for (std::size_t c = 0; c < C; ++c) x[c] = w.at("wte.weight")[token % 2 * C + c] + w.at("wpe.weight")[token / 2 * C + c];
    qkv.push_back(oracle::linear(w.at("c_attn.weight"), w.at("c_attn.bias"), x));
  }
  double span = 0;
  for (std::size_t row = 0; row < qkv.size(); ++row) {
    for (std::size_t h = 0; h < C; h += F) {
      double least = INFINITY, most = -INFINITY;
      for (std::size_t token = 0; token <= (row | 1); ++token) {
        if (token == (row ^ 1)) continue;
        const double score = std::inner_product(&qkv[row][h], &qkv[row][h] + F, &qkv[token][C + h], 0.0) / std::sqrt(double(F));
        least = std::min(least, score), most = std::max(most, score);
      }
      span = std::max(span, most - least);
    }
  }
  return span;
}

TEST(OneLayerCuda, ScoresFarApart) {
  Draw draw{std::mt19937(9)};
  const OneLayerShape shape{2, 3, 5, 2, 6};
  const auto rows = draw.rows(12, 6);
  auto weights = draw.weights(shape, .5F);
  for (auto& v : weights["wpe.weight"]) v /= 4;  // scores by bit: then some sequences see low ones alone
  int refused = 0;
  for (const double span : {0., 7., 20., 50., 100., 200.}) {
    if (simt::kTsan && span != 100) continue;
    auto scaled = weights;
    const auto factor = static_cast<float>(std::sqrt(span / span_of(shape, weights)));
    for (const auto* name : {"c_attn.weight", "c_attn.bias"}) {
      auto& values = scaled[name];
      for (std::size_t i = 0; i < values.size() / 3 * 2; ++i) values[i] *= factor;  // queries and keys
    }
    ASSERT_NEAR(span_of(shape, scaled), span, 1e-3 * span);
    const Case c{shape, {{rows, scaled}}};
    const auto part = part_of(c, in_every_order(c, 12), 0);
    // two units of the last place of a score are as much of a weight
    expect_near(shape, part, plainly<double>(shape, c.replicas[0]), plainly<float>(shape, c.replicas[0]), std::max(kFloor, span * 0x1p-23),
                "span " + std::to_string(span));
    refused += !on_the_cpu<float>(shape, c.replicas[0]);
  }
  EXPECT_EQ(refused, simt::kTsan ? 1 : 2) << "from 100 nats on some groups take the maximum of each cell";
}

TEST(OneLayerCuda, Tf32) {
  Draw draw;
  const OneLayerShape shape{2, 10, 20, 3, 6};
  // each of 3 products on the way forward and 3 on the way back has operands off by at most 2^-11
  constexpr double kMost = 6 * 0x1p-10;
  for (const bool fuse : {true, false}) {
    const Case c{shape, {{draw.rows(13, 6), draw.weights(shape, .3F)}}, fuse};
    const auto exact = on_the_cpu<double>(shape, c.replicas[0]);
    ASSERT_TRUE(exact);
    const auto part = part_of(c, run(c, 13, true), 0);
    EXPECT_LE(distance(part.logits, exact->logits), kMost / 2 * norm(exact->logits));
    EXPECT_GE(distance(part.logits, exact->logits), 1e-5 * norm(exact->logits)) << "float32 products";
    for (const auto& [name, values] : exact->gradient) {
      if (name == "c_attn.bias") continue;
      EXPECT_LE(distance(part.gradient.at(name), values), kMost * norm(values)) << name;
    }
  }
}

TEST(OneLayerCuda, RefusesSizes) {
  const DeviceBatchShape batch{1, 4, 6};
  for (const auto& shape : {OneLayerCudaShape{0, 1, 1, 1}, {1, 0, 1, 1}, {1, 1, 0, 1}, {1, 1, 1, 0}, {1, 1, 1, 9}, {1, 40000, 1, 1}}) {
    EXPECT_THROW(one_layer_cuda_work(shape, batch), std::invalid_argument);
  }
  for (const auto& unfit : {DeviceBatchShape{0, 4, 6}, {1, 0, 6}, {1, 4, 1}, {70000, 4, 6}, {1, 4, 6, 0}}) {
    EXPECT_THROW(one_layer_cuda_work({1, 1, 1, 1}, unfit), std::invalid_argument);
  }
}

#ifndef __CUDACC__
/// The launches of a step of these sizes, none of them run.
std::vector<simt::Launch> launches_of(const OneLayerCudaShape& shape, const DeviceBatchShape& batch) {
  std::vector<simt::Launch> launches;
  const auto before = simt::around_launch;
  simt::around_launch = [&](const simt::Launch& launch, const auto&) { launches.push_back(launch); };
  OneLayerCudaStep step{};
  step.shape = shape, step.cells.shape = batch;
  one_layer_gradient_cuda(step, nullptr);
  simt::around_launch = before;
  return launches;
}

TEST(OneLayerCuda, LargeSizesAreLaunchesThatAGpuTakes) {
  for (const auto& [shape, batch] : std::vector<std::pair<OneLayerCudaShape, DeviceBatchShape>>{{{18, 64, 1152, 3}, {8, 256, 100}},
                                                                                                {{4, 16, 64, 3}, {64, 256, 100}},
                                                                                                {{1, 16, 16, 3}, {4000, 32, 20}},
                                                                                                {{8, 64, 2048, 8}, {1, 4096, 1000}}}) {
    for (const auto& launch : launches_of(shape, batch)) {
      EXPECT_TRUE(launch.grid.x > 0 && launch.grid.x <= 0x7fffffff && launch.grid.y > 0 && launch.grid.y <= 65535 && launch.grid.z > 0 &&
                  launch.grid.z <= 65535)
          << launch.kernel;
      EXPECT_LE(launch.block.x, 256U) << launch.kernel;
      EXPECT_LE(launch.shared, std::size_t{163 << 10} - (8 << 10)) << launch.kernel;  // beside the kernels' own arrays, of sm_80
    }
    const auto cells = static_cast<std::size_t>(batch.replicas) * static_cast<std::size_t>(batch.capacity());
    EXPECT_GE(one_layer_cuda_work(shape, batch), cells * static_cast<std::size_t>(2 * (shape.width() + shape.heads)) * sizeof(float));
  }
}

TEST(OneLayerCuda, ProductsOfWideLayersAreMadeInLargeSquares) {
  const auto large = [](const OneLayerCudaShape& shape, const DeviceBatchShape& batch) {
    const auto launches = launches_of(shape, batch);
    return std::count_if(launches.begin(), launches.end(),
                         [](const auto& launch) { return launch.kernel.starts_with("gemm") && launch.block.x == gemm_threads(kLargeGemmSide); });
  };
  EXPECT_EQ(large({2, 64, 128, 3}, {1, 256, 100}), 6);
  EXPECT_EQ(large({18, 64, 1152, 3}, {1, 256, 100}), 6);
  EXPECT_EQ(large({4, 16, 64, 3, false}, {1, 256, 100}), 0);
  EXPECT_EQ(large({2, 64, 128, 3}, {1, 32, 20}), 0);
  EXPECT_EQ(large({2, 64, 128, 3}, {64, 32, 20}), 6);
  EXPECT_EQ(large({2, 64, 128, 3, true, Squares::small}, {1, 256, 100}), 0);
}

TEST(OneLayerCuda, LaunchesAStep) {
  const auto launches = [](const OneLayerCudaShape& shape) { return launches_of(shape, {1, 2, 3}).size(); };
  EXPECT_EQ(launches({4, 16, 64, 3}), 11U);
  EXPECT_EQ(launches({4, 16, 64, 4}), 11U);
  EXPECT_EQ(launches({4, 16, 65, 3}), 19U);
  EXPECT_EQ(launches({4, 16, 65, 4}), 21U);
}
#endif

}  // namespace
}  // namespace mnemo
