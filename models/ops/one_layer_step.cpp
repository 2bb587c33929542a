#include "models/ops/one_layer_step.h"

#include "models/ops/binary_attention.h"
#include "models/ops/cell_schedule.h"

#include <fmt/format.h>

#include <stdexcept>

// Shapes: n cells of a chunk, C = H F width (heads padded to whole vectors), D MLP width, P = L-1 positions.

namespace mnemo {

template <class Real>
class OneLayerStep<Real>::Impl {
 public:
  Impl(const OneLayerShape& shape, int threads, bool skip_dead_units);

  std::optional<Result> gradient(const OneLayerTensors<const Real>& weights, const OneLayerTensors<Real>& gradients, const Cells& cells,
                                 const SequenceTable& table);
  bool logits(const OneLayerTensors<const Real>& weights, const Cells& cells, const SequenceTable& table, Real* out);

 private:
  static constexpr Real kEpsilon = Real(1e-5);
  static constexpr std::int64_t kMaxChunk = 192;  // cells; a multiple of the vector width and of kTileRows

  /// y = W x + b, columns of x padded as attention pads them (layer 0).
  struct Layer {
    std::int64_t inputs;      // columns of x with padding
    Matrix<Real> weight;      // [D, inputs]
    Matrix<Real> transposed;  // [inputs, D]
    Matrix<Real> bias;        // [1, D]
  };
  /// Activations of a chunk, and a thread's share of the gradient.
  struct Worker {
    typename BinaryAttention<Real>::Scratch attention;
    Matrix<Real> attended;                // [n, num | z], then o in place of num, then their gradient
    Matrix<Real> normalised;              // [n, C] (o - mean) / deviation
    Matrix<Real> inverse_deviation;       // [1, n]
    std::vector<Matrix<Real>> hidden;     // [n, D] h_1 .. h_layers
    std::vector<Matrix<Real>> rectified;  // [n, D] relu(...) of layers 2..; then the gradient by its argument. Layer 1 uses hidden[0]
    Matrix<Real> dhidden;                 // [n, D] or [n, C]
    LiveColumns live;                     // of the current matrix
    Matrix<Real> logit, dlogit;           // [1, n]
    std::vector<Matrix<Real>> dweight;    // [D, inputs] of each layer
    Matrix<Real> dbias, dhead;            // [layers, D], [1, D]
    double dhead_bias, loss, accuracy;
    bool safe;
  };

  void schedule(const Cells& cells, const SequenceTable& table);
  void pack(const OneLayerTensors<const Real>& weights);
  template <class Body>
  void for_threads(const Body& body);
  Matrix<Real>& rectified(Worker& worker, std::size_t layer) { return layer == 0 ? worker.hidden[0] : worker.rectified[layer]; }
  Patterns patterns(std::int64_t slot) const { return {patterns_, schedule_.row.data() + slot}; }

  /// body(depth_of): the columns of `matrix` that a product over them has to visit.
  template <class Body>
  void with_live(Worker& worker, const Matrix<Real>& matrix, std::int64_t n, std::int64_t columns, const Body& body) {
    if (!skip_dead_units_) return body(all_of(columns));
    worker.live.find(matrix, n, columns);
    body(worker.live);
  }

  /// A cell's work outside attention in units of attending to one position, as measured: 60 and 3 (C + (layers - 1) D)
  /// / 2 of D / C.
  std::int64_t fixed_work() const { return 60 + 3 * shape_.mlp_width * (width_ + (shape_.mlp_layers - 1) * shape_.mlp_width) / (2 * width_); }

  using Chunk = typename CellSchedule<Real>::Chunk;
  void forward(Worker& worker, const Chunk& chunk);
  void normalise(Worker& worker, std::int64_t n);
  void loss(Worker& worker, const Chunk& chunk);
  void backward(Worker& worker, const Chunk& chunk);
  void head_backward(Worker& worker, std::int64_t n);
  void normalise_backward(Worker& worker, std::int64_t n);
  void finish(const OneLayerTensors<const Real>& weights, const OneLayerTensors<Real>& gradients);

  OneLayerShape shape_;
  std::int64_t width_;
  bool skip_dead_units_;
  BinaryAttention<Real> attention_;
  Matrix<Real> real_column_;  // [1, C] 1 where a padded column holds a real one
  std::vector<Layer> layers_;
  Matrix<Real> head_;  // [1, D] lm_head row 1 - row 0
  Real head_bias_ = 0;
  CellSchedule<Real> schedule_{GroupCells::by_position_and_bit, kMaxChunk};
  PatternRows patterns_;  // of the batch
  std::vector<Worker> workers_;
  std::vector<typename BinaryAttention<Real>::Scratch*> scratches_;  // of the workers
};

template <class Real>
OneLayerStep<Real>::Impl::Impl(const OneLayerShape& shape, int threads, bool skip_dead_units)
    : shape_(shape),
      width_(shape.heads * shape.head_dim),
      skip_dead_units_(skip_dead_units),
      attention_(shape.heads, shape.head_dim, shape.length),
      real_column_(1, attention_.value_columns()),
      head_(1, shape.mlp_width) {
  for (std::int64_t c = 0; c < width_; ++c) real_column_[0][attention_.padded_column(c)] = 1;
  const auto layers = static_cast<std::size_t>(shape.mlp_layers);
  const auto D = shape.mlp_width, C = attention_.value_columns();
  for (std::size_t j = 0; j < layers; ++j) {
    const auto inputs = j == 0 ? C : D;
    layers_.push_back({inputs, {D, inputs}, {inputs, D}, {1, D}});
  }
  const auto n = kMaxChunk;
  for (int t = 0; t < threads; ++t) {
    auto& worker = workers_.emplace_back();
    worker.attention = attention_.make_scratch();
    worker.attended = {n, attention_.columns()};
    worker.normalised = {n, C};
    worker.inverse_deviation = worker.logit = worker.dlogit = {1, n};
    worker.dhidden = {n, std::max(C, D)};
    worker.dbias = {shape.mlp_layers, D};
    worker.dhead = {1, D};
    worker.live = {n, D};
    for (std::size_t j = 0; j < layers; ++j) {
      worker.hidden.emplace_back(n, D);
      worker.rectified.emplace_back(j == 0 ? 0 : n, D);
      worker.dweight.emplace_back(D, layers_[j].inputs);
    }
  }
  for (auto& worker : workers_) scratches_.push_back(&worker.attention);
}

/// The order of the cells, and the rows in patterns of 4 bits, or of 2 where few cells would share a table of 2^4 sums.
template <class Real>
void OneLayerStep<Real>::Impl::schedule(const Cells& cells, const SequenceTable& table) {
  schedule_.make(cells, table, static_cast<std::int64_t>(workers_.size()), fixed_work());
  patterns_.reset(cells.num_rows(), cells.length, cells.num_cells() >= 16 * 2 * (cells.length - 1) ? 4 : 2);
  for (std::int64_t u = 0; u < cells.num_rows(); ++u) patterns_.set(u, table.row(cells.ranks[static_cast<std::size_t>(u)]).data());
}

/// Layers in both layouts. LayerNorm's scale and shift go into the first: W (g x + s) + b = (W diag(g)) x + (W s + b).
template <class Real>
void OneLayerStep<Real>::Impl::pack(const OneLayerTensors<const Real>& weights) {
  const auto D = shape_.mlp_width;
  for (std::size_t j = 0; j < layers_.size(); ++j) {
    auto& layer = layers_[j];
    const auto inputs = j == 0 ? width_ : D;
    for (std::int64_t d = 0; d < D; ++d) {
      const Real* from = weights.mlp_weight[j] + d * inputs;
      Real bias = weights.mlp_bias[j][d];
      for (std::int64_t c = 0; c < inputs; ++c) {
        const auto column = j == 0 ? attention_.padded_column(c) : c;
        const Real value = j == 0 ? from[c] * weights.ln_weight[c] : from[c];
        if (j == 0) bias += from[c] * weights.ln_bias[c];
        layer.weight[d][column] = layer.transposed[column][d] = value;
      }
      layer.bias[0][d] = bias;
    }
  }
  for (std::int64_t d = 0; d < D; ++d) head_[0][d] = weights.head_weight[D + d] - weights.head_weight[d];
  head_bias_ = weights.head_bias[1] - weights.head_bias[0];
}

/// body(thread), by every thread; no dispatch for one.
template <class Real>
template <class Body>
void OneLayerStep<Real>::Impl::for_threads(const Body& body) {
  const auto threads = static_cast<int>(workers_.size());
  if (threads == 1) return body(std::size_t{0});
#pragma omp parallel for num_threads(threads) schedule(static, 1)
  for (int t = 0; t < threads; ++t) body(static_cast<std::size_t>(t));
}

/// attended, normalised, hidden and logit of a chunk.
template <class Real>
void OneLayerStep<Real>::Impl::forward(Worker& worker, const Chunk& chunk) {
  const auto n = chunk.end - chunk.begin, D = shape_.mlp_width;
  auto& attended = worker.attended;
  for (auto r = chunk.first_run; r < chunk.last_run; ++r) {
    const auto& run = schedule_.runs[r];
    const auto attend = [&]<int kBits>() {
      attention_.template attend<kBits>(run.position, run.bit, patterns(run.begin), run.end - run.begin, attended[run.begin - chunk.begin],
                                        attended.stride(), worker.attention);
    };
    patterns_.bits() == 4 ? attend.template operator()<4>() : attend.template operator()<2>();
  }
  normalise(worker, n);
  const Matrix<Real>* input = &worker.normalised;
  for (std::size_t j = 0; j < layers_.size(); ++j) {
    const auto& layer = layers_[j];
    auto &hidden = worker.hidden[j], &rectified = worker.rectified[j];
    const auto product = [&](const auto& depth_of, const auto& finish) {
      multiply<Stored::plain>(n, D, depth_of, (*input)[0], input->stride(), layer.transposed[0], layer.transposed.stride(), finish);
    };
    if (j == 0) {
      product(all_of(layer.inputs),
              [&](auto row, auto column, auto sum) { store(hidden[row] + column, relu<Real>(sum + load(layer.bias[0] + column))); });
    } else {
      with_live(worker, *input, n, D, [&](const auto& depth_of) {
        product(depth_of, [&](auto row, auto column, auto sum) {
          const auto activation = relu<Real>(sum + load(layer.bias[0] + column));
          store(rectified[row] + column, activation);
          store(hidden[row] + column, activation + load((*input)[row] + column));
        });
      });
    }
    input = &hidden;
  }
  for (std::int64_t s = 0; s < n; ++s) {
    Vec<Real> sum{};
    for (std::int64_t d = 0; d < D; d += kLanes<Real>) sum += load((*input)[s] + d) * load(head_[0] + d);
    worker.logit[0][s] = sum_lanes(sum)[0] + head_bias_;
  }
}

/// o = num / z in place; normalised = (o - mean) / sqrt(variance + epsilon).
template <class Real>
void OneLayerStep<Real>::Impl::normalise(Worker& worker, std::int64_t n) {
  const auto C = attention_.value_columns(), head = attention_.padded_head();
  const Real share = 1 / static_cast<Real>(width_);
  for (std::int64_t s = 0; s < n; ++s) {
    Real *o = worker.attended[s], *normalised = worker.normalised[s];
    Vec<Real> sum{}, squares{};
    for (std::int64_t h = 0; h < shape_.heads; ++h) {
      const auto inverse = broadcast(1 / o[C + h]);
      for (auto c = h * head; c < (h + 1) * head; c += kLanes<Real>) {
        const auto value = load(o + c) * inverse;
        store(o + c, value);
        sum += value;
      }
    }
    const auto mean = sum_lanes(sum) * share;
    for (std::int64_t c = 0; c < C; c += kLanes<Real>) {
      const auto centred = (load(o + c) - mean) * load(real_column_[0] + c);
      store(normalised + c, centred);
      squares += centred * centred;
    }
    const Real variance = sum_lanes(squares)[0] * share;
    const Real inverse = 1 / std::sqrt(variance + kEpsilon);
    worker.inverse_deviation[0][s] = inverse;
    for (std::int64_t c = 0; c < C; c += kLanes<Real>) store(normalised + c, load(normalised + c) * inverse);
  }
}

/// Loss and accuracy of a chunk, and dlogit.
template <class Real>
void OneLayerStep<Real>::Impl::loss(Worker& worker, const Chunk& chunk) {
  Wide<Real> loss{}, right{};
  Real* logits = worker.logit[0];
  const auto n = chunk.end - chunk.begin;
  std::fill(logits + n, logits + round_up(n, kLanes<Real>), Real{0});
  for (std::int64_t s = 0; s < n; s += kLanes<Real>) {
    const auto zero = load(&schedule_.weight_zero[chunk.begin + s]), one = load(&schedule_.weight_one[chunk.begin + s]);
    const Bce<Vec<Real>> bce(load(logits + s));
    store(worker.dlogit[0] + s, bce.slope(zero, one));
    loss += __builtin_convertvector(bce.loss(zero, one), Wide<Real>);
    right += __builtin_convertvector(bce.right(zero, one), Wide<Real>);
  }
  for (std::int64_t lane = 0; lane < kLanes<Real>; ++lane) {
    worker.loss += loss[lane];
    worker.accuracy += right[lane];
  }
}

/// sums[c] += sum over n rows of rows[s][c], each chunk's sum made on its own.
template <class Real>
void add_column_sums(const Matrix<Real>& rows, std::int64_t n, std::int64_t columns, Real* sums) {
  for_strips<Real>(round_up(columns, kLanes<Real>), [&]<int N>(std::int64_t column) {
    Vec<Real> sum[N] = {};
    for (std::int64_t s = 0; s < n; ++s) {
      for (int v = 0; v < N; ++v) sum[v] += load(rows[s] + column + v * kLanes<Real>);
    }
    for (int v = 0; v < N; ++v) store(sums + column + v * kLanes<Real>, load(sums + column + v * kLanes<Real>) + sum[v]);
  });
}

/// logit = w . h_n + b: dhidden = dlogit w, the gradient by the last layer's argument, and those of w and b.
template <class Real>
void OneLayerStep<Real>::Impl::head_backward(Worker& worker, std::int64_t n) {
  const auto last = layers_.size() - 1;
  auto& activation = rectified(worker, last);
  for (std::int64_t s = 0; s < n; ++s) worker.dhead_bias += worker.dlogit[0][s];
  for (std::int64_t d = 0; d < shape_.mlp_width; d += kLanes<Real>) {
    const auto head = load(head_[0] + d);
    Vec<Real> dhead{};
    for (std::int64_t s = 0; s < n; ++s) {
      const auto dlogit = broadcast(worker.dlogit[0][s]);
      const auto dhidden = dlogit * head;
      dhead += dlogit * load(worker.hidden[last][s] + d);
      store(worker.dhidden[s] + d, dhidden);
      store(activation[s] + d, load(activation[s] + d) > Real{0} ? dhidden : Vec<Real>{});
    }
    store(worker.dhead[0] + d, load(worker.dhead[0] + d) + dhead);
  }
}

/// Gradients of everything from a chunk's dlogit. Layer j: h_j = relu(a_j) + h_{j-1}, a_j = W_j h_{j-1} + b_j:
///   dW_j += da_j^T h_{j-1},   dh_{j-1} = dh_j + da_j W_j,   db_j += da_j,   da_{j-1} = dh_{j-1} where relu passed
template <class Real>
void OneLayerStep<Real>::Impl::backward(Worker& worker, const Chunk& chunk) {
  const auto n = chunk.end - chunk.begin, D = shape_.mlp_width;
  head_backward(worker, n);
  auto& dhidden = worker.dhidden;
  for (std::size_t j = layers_.size(); j-- > 0;) {
    const auto& layer = layers_[j];
    const auto &dargument = rectified(worker, j), &input = j == 0 ? worker.normalised : worker.hidden[j - 1];
    auto& dweight = worker.dweight[j];
    add_column_sums(dargument, n, D, worker.dbias[static_cast<std::int64_t>(j)]);
    with_live(worker, dargument, n, D, [&](const auto& depth_of) {
      add_transposed_product(n, layer.inputs, depth_of, dargument[0], dargument.stride(), input[0], input.stride(), dweight[0], dweight.stride());
      const auto product = [&](const auto& finish) {
        multiply<Stored::plain>(n, layer.inputs, depth_of, dargument[0], dargument.stride(), layer.weight[0], layer.weight.stride(), finish);
      };
      if (j == 0) {
        product([&](auto row, auto column, auto sum) { store(dhidden[row] + column, sum); });
      } else {
        auto& below = rectified(worker, j - 1);
        product([&](auto row, auto column, auto sum) {
          const auto total = sum + load(dhidden[row] + column);
          store(dhidden[row] + column, total);
          store(below[row] + column, load(below[row] + column) > Real{0} ? total : Vec<Real>{});
        });
      }
    });
  }
  normalise_backward(worker, n);
  for (auto r = chunk.first_run; r < chunk.last_run; ++r) {
    const auto& run = schedule_.runs[r];
    const auto scatter = [&]<int kBits>() {
      attention_.template scatter<kBits>(run.position, run.bit, patterns(run.begin), run.end - run.begin, worker.attended[run.begin - chunk.begin],
                                         worker.attended.stride(), worker.attention);
    };
    patterns_.bits() == 4 ? scatter.template operator()<4>() : scatter.template operator()<2>();
  }
}

/// With x the normalised o and g = dhidden its gradient: do = (g - mean(g) - x mean(g x)) / deviation; per head dnum =
/// do / z, dz = -(do . o) / z. Overwrites attended.
template <class Real>
void OneLayerStep<Real>::Impl::normalise_backward(Worker& worker, std::int64_t n) {
  const auto C = attention_.value_columns(), head = attention_.padded_head();
  const Real share = 1 / static_cast<Real>(width_);
  for (std::int64_t s = 0; s < n; ++s) {
    Real* attended = worker.attended[s];
    const Real *x = worker.normalised[s], *g = worker.dhidden[s];
    Vec<Real> sum{}, product{};
    for (std::int64_t c = 0; c < C; c += kLanes<Real>) {
      sum += load(g + c);
      product += load(g + c) * load(x + c);
    }
    const auto mean = sum_lanes(sum) * share, slope = sum_lanes(product) * share;
    const Real inverse_deviation = worker.inverse_deviation[0][s];
    for (std::int64_t h = 0; h < shape_.heads; ++h) {
      const Real inverse = 1 / attended[C + h];
      Vec<Real> dot{};
      for (auto c = h * head; c < (h + 1) * head; c += kLanes<Real>) {
        const auto dnum = (load(g + c) - mean - load(x + c) * slope) * (inverse_deviation * inverse) * load(real_column_[0] + c);
        dot += dnum * load(attended + c);
        store(attended + c, dnum);
      }
      attended[C + h] = -sum_lanes(dot)[0];
    }
  }
}

/// Sums the threads' shares in fixed order and adds them to the gradients, out of the padded and folded form.
template <class Real>
void OneLayerStep<Real>::Impl::finish(const OneLayerTensors<const Real>& weights, const OneLayerTensors<Real>& gradients) {
  auto& total = workers_[0];
  for (std::size_t t = 1; t < workers_.size(); ++t) {
    const auto& worker = workers_[t];
    for (std::size_t j = 0; j < layers_.size(); ++j) total.dweight[j] += worker.dweight[j];
    total.dbias += worker.dbias;
    total.dhead += worker.dhead;
    total.dhead_bias += worker.dhead_bias;
    total.loss += worker.loss;
    total.accuracy += worker.accuracy;
  }
  const auto D = shape_.mlp_width;
  for (std::int64_t d = 0; d < D; ++d) {
    gradients.head_weight[d] -= total.dhead[0][d];
    gradients.head_weight[D + d] += total.dhead[0][d];
  }
  gradients.head_bias[0] -= static_cast<Real>(total.dhead_bias);
  gradients.head_bias[1] += static_cast<Real>(total.dhead_bias);
  for (std::size_t j = 0; j < layers_.size(); ++j) {
    const Real* dbias = total.dbias[static_cast<std::int64_t>(j)];
    for (std::int64_t d = 0; d < D; ++d) {
      const Real* from = total.dweight[j][d];
      gradients.mlp_bias[j][d] += dbias[d];
      if (j > 0) {
        for (std::int64_t c = 0; c < D; ++c) gradients.mlp_weight[j][d * D + c] += from[c];
        continue;
      }
      for (std::int64_t c = 0; c < width_; ++c) {
        const Real folded = from[attention_.padded_column(c)], weight = weights.mlp_weight[0][d * width_ + c];
        gradients.mlp_weight[0][d * width_ + c] += folded * weights.ln_weight[c] + dbias[d] * weights.ln_bias[c];
        gradients.ln_weight[c] += folded * weight;
        gradients.ln_bias[c] += dbias[d] * weight;
      }
    }
  }
  attention_.finish(scratches_, {gradients.wte, gradients.wpe, gradients.c_attn_weight, gradients.c_attn_bias});
}

template <class Real>
auto OneLayerStep<Real>::Impl::gradient(const OneLayerTensors<const Real>& weights, const OneLayerTensors<Real>& gradients, const Cells& cells,
                                        const SequenceTable& table) -> std::optional<Result> {
  schedule(cells, table);
  pack(weights);
  attention_.project({weights.wte, weights.wpe, weights.c_attn_weight, weights.c_attn_bias});
  for_threads([&](std::size_t t) {
    auto& worker = workers_[t];
    const auto begin = schedule_.first_position[t], end = schedule_.first_position[t + 1];
    worker.safe = attention_.weigh(begin, end);
    if (!worker.safe) return;
    attention_.begin_backward(begin, end, worker.attention);
    for (auto& dweight : worker.dweight) dweight.zero();
    worker.dbias.zero();
    worker.dhead.zero();
    worker.dhead_bias = worker.loss = worker.accuracy = 0;
    for (auto c = schedule_.first_chunk[t]; c < schedule_.first_chunk[t + 1]; ++c) {
      forward(worker, schedule_.chunks[c]);
      loss(worker, schedule_.chunks[c]);
      backward(worker, schedule_.chunks[c]);
    }
    attention_.backward(begin, end, worker.attention);
  });
  for (const auto& worker : workers_) {
    if (!worker.safe) return std::nullopt;
  }
  finish(weights, gradients);
  return Result{workers_[0].loss, workers_[0].accuracy};
}

template <class Real>
bool OneLayerStep<Real>::Impl::logits(const OneLayerTensors<const Real>& weights, const Cells& cells, const SequenceTable& table, Real* out) {
  schedule(cells, table);
  pack(weights);
  attention_.project({weights.wte, weights.wpe, weights.c_attn_weight, weights.c_attn_bias});
  for_threads([&](std::size_t t) {
    auto& worker = workers_[t];
    worker.safe = attention_.weigh(schedule_.first_position[t], schedule_.first_position[t + 1]);
    if (!worker.safe) return;
    for (auto c = schedule_.first_chunk[t]; c < schedule_.first_chunk[t + 1]; ++c) {
      const auto& chunk = schedule_.chunks[c];
      forward(worker, chunk);
      for (auto slot = chunk.begin; slot < chunk.end; ++slot) out[schedule_.cell[slot]] = worker.logit[0][slot - chunk.begin];
    }
  });
  return std::all_of(workers_.begin(), workers_.end(), [](const auto& worker) { return worker.safe; });
}

template <class Real>
OneLayerStep<Real>::OneLayerStep(const OneLayerShape& shape, int threads, bool skip_dead_units) {
  if (std::min({shape.heads, shape.head_dim, shape.mlp_width, shape.mlp_layers}) < 1 || shape.length < 2 || shape.mlp_layers > 8 || threads < 1) {
    throw std::invalid_argument(fmt::format("[one_layer_step] cannot have H={}, F={}, D={}, {} layers, L={}, {} threads", shape.heads, shape.head_dim,
                                            shape.mlp_width, shape.mlp_layers, shape.length, threads));
  }
  impl_ = std::make_unique<Impl>(shape, threads, skip_dead_units);
}
template <class Real>
OneLayerStep<Real>::~OneLayerStep() = default;

template <class Real>
auto OneLayerStep<Real>::gradient(const OneLayerTensors<const Real>& weights, const OneLayerTensors<Real>& gradients, const Cells& cells,
                                  const SequenceTable& table) -> std::optional<Result> {
  return impl_->gradient(weights, gradients, cells, table);
}

template <class Real>
bool OneLayerStep<Real>::logits(const OneLayerTensors<const Real>& weights, const Cells& cells, const SequenceTable& table, Real* out) {
  return impl_->logits(weights, cells, table, out);
}

template class OneLayerStep<float>;
template class OneLayerStep<double>;

}  // namespace mnemo
