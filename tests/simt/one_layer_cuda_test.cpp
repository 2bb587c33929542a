#include "models/ops/one_layer_cuda.h"

#include "../models/ops/one_layer_oracle.h"
#include "core/batches.h"
#include "models/ops/one_layer_step.h"
#include "simt_test.h"

#include <cmath>
#include <numeric>
#include <set>

// The kernels of models/ops/one_layer_cuda against the step on the CPU in float64, and against the oracle, a direct loop, where that step refuses.

namespace mnemo {
namespace {

using oracle::Tensors;
using simt::Device;
using Rows = std::vector<std::vector<int>>;

/// What a replica trains on: rows as drawn, with repeats. None: it takes no part.
struct Replica {
  Rows rows;
  Tensors<float> weights;
};

struct Case {
  OneLayerShape shape;
  std::vector<Replica> replicas;
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

/// The kernels' answer with room for `batch` draws a replica; masses are counted in `draws`.
Answer run(const Case& c, int batch, bool tf32 = false) {
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
  step.shape = {int(shape.heads), int(shape.head_dim), int(shape.mlp_width), int(shape.mlp_layers)};
  step.cells = {sizes, num_rows_, first_, bits_, rank_, count_, row_, mass_};
  step.offsets = offsets_of(shape, step.row_size);
  step.parameters_RP = parameters_, step.gradient_RP = gradient, step.loss_R = loss, step.accuracy_R = accuracy, step.tf32 = tf32;
  const Device<unsigned char> work(one_layer_cuda_work(step.shape, sizes));
  step.work = work;
  one_layer_gradient_cuda(step, nullptr);
  const Device<unsigned char> other_work(one_layer_cuda_work(step.shape, sizes));
  step.work = other_work;
  one_layer_logits_cuda(step, logits, nullptr);
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

double norm(const std::vector<double>& a) {
  return std::sqrt(std::inner_product(a.begin(), a.end(), a.begin(), 0.0));
}
double distance(std::vector<double> a, const std::vector<double>& b) {
  for (std::size_t i = 0; i < a.size(); ++i) a[i] -= b[i];
  return norm(a);
}

/// Errors relative to the tensor's norm: at most twice that of `peer`, another float32 form, or `floor`. The key bias has no gradient, only noise, and
/// is left out.
void expect_near(const OneLayerShape& shape, const Part& got, const Part& exact, const Part& peer, double floor, const std::string& what) {
  const auto near = [&](const std::string& name, const auto& pick, double scale) {
    const double error = distance(pick(got), pick(exact)) / scale, allowed = std::max(2 * distance(pick(peer), pick(exact)) / scale, floor);
    EXPECT_LE(error, allowed) << what << " " << name << " of size " << scale;
  };
  const auto scalar = [&](const std::string& name, double Part::*member) {
    near(name, [&](const Part& p) { return std::vector<double>{p.*member}; }, 1);
  };
  scalar("loss", &Part::loss);
  near("logits", [](const Part& p) { return p.logits; }, std::max(norm(exact.logits), 1e-30));
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

/// Every replica of a case against the CPU, in every order of threads.
void expect_as_on_the_cpu(const Case& c, int batch, const std::string& what, double floor = 1e-6) {
  const auto of_run = [&] {
    const auto answer = run(c, batch);
    return std::tuple(answer.logits, answer.gradient, answer.loss, answer.accuracy);
  };
  const auto [logits, gradient, loss, accuracy] = simt::in_every_order(of_run);
  const Answer answer{logits, gradient, loss, accuracy};
  for (std::size_t r = 0; r < c.replicas.size(); ++r) {
    const auto name = what + ", replica " + std::to_string(r);
    const auto part = part_of(c, answer, r);
    if (c.replicas[r].rows.empty()) {
      EXPECT_EQ(part.loss, 0) << name;
      EXPECT_EQ(part.accuracy, 0) << name;
      for (const auto& [tensor, values] : part.gradient) {
        for (const double v : values) EXPECT_EQ(v, 0) << name << " " << tensor;
      }
      continue;
    }
    const auto exact = on_the_cpu<double>(c.shape, c.replicas[r]), peer = on_the_cpu<float>(c.shape, c.replicas[r]);
    ASSERT_TRUE(exact && peer) << name;
    EXPECT_NEAR(part.accuracy, exact->accuracy, 1e-6) << name;
    expect_near(c.shape, part, *exact, *peer, floor, name);
  }
}

TEST(OneLayerCuda, Smoke) {
  Draw draw;
  const OneLayerShape shape{2, 5, 7, 3, 9};
  expect_as_on_the_cpu({shape, {{draw.rows(6, 9), draw.weights(shape, .3F)}}}, 6, "smoke");
}

}  // namespace
}  // namespace mnemo
