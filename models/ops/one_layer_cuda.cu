#include "models/ops/one_layer_cuda.h"

#include "models/ops/one_layer_attention_cuda.cuh"
#include "models/ops/one_layer_fused_cuda.cuh"
#include "models/ops/one_layer_mlp_cuda.cuh"

#include <algorithm>
#include <limits>
#include <stdexcept>
#include <string>

namespace mnemo {

namespace one_layer {
namespace {

void check_sizes(const OneLayerCudaShape& shape, const DeviceBatchShape& batch) {
  const auto least = std::min({shape.heads, shape.head_dim, shape.mlp_width, shape.mlp_layers, batch.replicas, batch.batch, batch.length - 1});
  const double C = static_cast<double>(shape.heads) * shape.head_dim, D = shape.mlp_width, L = batch.length;
  const double numbers = std::max({3 * C * C, D * std::max(C, D), 6 * L * C, 2.0 * L * batch.batch});  // 32 bits hold places among them
  if (least < 1 || shape.mlp_layers > kMaxMlpLayers || batch.first_predicted_bit != 1 || static_cast<double>(batch.replicas) * shape.heads > 65535 ||
      numbers > std::numeric_limits<int>::max()) {
    const auto text = [](const char* name, int value) { return name + std::to_string(value); };
    throw std::invalid_argument("[one_layer_cuda] cannot have " + text("R=", batch.replicas) + text(", B=", batch.batch) +
                                text(", L=", batch.length) + text(", first bit ", batch.first_predicted_bit) + text(", H=", shape.heads) +
                                text(", F=", shape.head_dim) + text(", D=", shape.mlp_width) + text(", layers ", shape.mlp_layers));
  }
}

/// Queues kernels over what `s` holds.
class Launcher {
 public:
  Launcher(const OneLayerCudaStep& step, float* logits, void* stream) : stream_(stream) {
    check_sizes(step.shape, step.cells.shape);
    s_.step = step, s_.logits = logits;
    lay_out(s_);
  }

  /// Logits.
  void forward() const {
    attention_forward();
    s_.fused() ? run_fused() : cells_forward();
  }
  /// Loss, accuracy and gradient.
  void step() const {
    forward();
    if (!s_.fused()) cells_backward();
    run<merge_partials>(merge_blocks(), layers() + 2, R(), 32 * kWarps);
    attention_backward();
  }

 private:
  void attention_forward() const {
    const auto tiles = parts(tokens(), kGemmSide);
    run<gemm<ProjectTokens, false, kGemmSide, Arguments>>(tiles, parts(3 * s_.C(), kGemmSide), R(), gemm_threads(kGemmSide), 0);
    run<gemm<Scores, false, kGemmSide, Arguments>>(tiles, tiles, R() * H(), gemm_threads(kGemmSide), 0);
    run<weigh_scores>(parts(tokens(), kWarps), H(), R(), 32 * kWarps);
    run<attend>(tokens() * parts(s_.batch().batch, kAttendTile), parts(s_.columns(), kColumns), R(), 32 * kWarps);
  }
  void cells_forward() const {
    run<normalise>(parts(N(), kWarps), R(), 1, 32 * kWarps);
    for (int layer = 0; layer < layers(); ++layer) {
      in_squares([&](auto side) { return dim3(unsigned(parts(N(), side)), unsigned(parts(s_.D(), side)), unsigned(R())); },
                 [&](auto tf32, auto side, dim3 grid) { launch<gemm<Layer, tf32, side, Arguments>>(grid, gemm_threads(side), layer); });
    }
    run<head>(s_.cell_blocks(), R(), 1, 32 * kWarps);
  }
  void cells_backward() const {
    for (int layer = layers() - 1; layer >= 0; --layer) {
      const auto of_weights = [&](int side) { return parts(s_.D(), side) * s_.chunks(layer); };  // first, since each takes longer
      in_squares(
          [&](auto side) { return dim3(unsigned(of_weights(side) + parts(N(), side)), unsigned(parts(s_.inputs(layer), side)), unsigned(R())); },
          [&](auto tf32, auto side, dim3 grid) {
            launch<gemm_pair<LayerWeightGradient, LayerInputGradient, tf32, side, Arguments>>(grid, gemm_threads(side), layer, of_weights(side));
          });
    }
    run<normalise_backward>(s_.cell_blocks(), R(), 1, 32 * kWarps);
  }
  void run_fused() const {
    const dim3 grid(unsigned(s_.chunks(0)), unsigned(R()));
    const auto shared = sizeof(Square) * unsigned(layers() + 3);
    s_.step.tf32 ? simt::launch<fused_cells<true>>(grid, kFusedThreads, shared, stream_, s_)
                 : simt::launch<fused_cells<false>>(grid, kFusedThreads, shared, stream_, s_);
  }
  void attention_backward() const {
    run<scatter>(tokens(), parts(s_.columns(), kColumns), R(), 32 * kWarps);
    run<score_gradients>(tokens(), R(), 1, 256);
    run<token_gradients>(tokens(), 3 * parts(s_.C(), 32), R(), 32 * kWarps);
    const int of_weights = parts(3 * s_.C(), kGemmSide);
    run<gemm_pair<ProjectionGradient, InputGradient, false, kGemmSide, Arguments>>(of_weights + parts(tokens(), kGemmSide), parts(s_.C(), kGemmSide),
                                                                                   R(), gemm_threads(kGemmSide), 0, of_weights);
    run<embedding_gradients>(s_.batch().length + 2, parts(s_.C(), 128), R(), 128);
  }

  int R() const { return s_.batch().replicas; }
  int N() const { return s_.batch().capacity(); }
  int H() const { return s_.step.shape.heads; }
  int layers() const { return s_.step.shape.mlp_layers; }
  int tokens() const { return s_.tokens(); }
  int merge_blocks() const {
    std::size_t most = static_cast<std::size_t>(std::max(2 * s_.C(), s_.D() + 1));
    for (int layer = 0; layer < std::min(2, layers()); ++layer) most = std::max(most, s_.layer_size(layer));
    return static_cast<int>((most + 31) / 32);
  }

  template <auto kernel, class... More>
  void launch(dim3 grid, unsigned threads, More... more) const {
    simt::launch<kernel>(grid, threads, 0, stream_, s_, more...);
  }
  template <auto kernel, class... More>
  void run(int x, int y, int z, unsigned threads, More... more) const {
    launch<kernel>(dim3(unsigned(x), unsigned(y), unsigned(z)), threads, more...);
  }
  /// Products of the MLP: make(whether in tf32, side of the squares, grid), the first two as constants, with the grid of that side.
  template <class Grid, class Make>
  void in_squares(const Grid& grid, const Make& make) const {
    constexpr std::integral_constant<int, kGemmSide> small;
    constexpr std::integral_constant<int, kLargeGemmSide> large;
    const auto count = [&](auto side) { return std::int64_t{grid(side).x} * grid(side).y * grid(side).z; };
    const auto of_side = [&](auto side) { s_.step.tf32 ? make(std::true_type(), side, grid(side)) : make(std::false_type(), side, grid(side)); };
    const auto squares = s_.step.shape.squares;
    const bool by_size = large_squares_pay(count(small), count(large));
    squares == OneLayerCudaShape::Squares::large || (squares == OneLayerCudaShape::Squares::by_size && by_size) ? of_side(large) : of_side(small);
  }

  Arguments s_{};
  void* stream_;
};

}  // namespace
}  // namespace one_layer

std::size_t one_layer_cuda_work(const OneLayerCudaShape& shape, const DeviceBatchShape& batch) {
  one_layer::check_sizes(shape, batch);
  one_layer::Arguments arguments{};
  arguments.step.shape = shape, arguments.step.cells.shape = batch;
  return one_layer::lay_out(arguments);
}

void one_layer_gradient_cuda(const OneLayerCudaStep& step, void* stream) { one_layer::Launcher(step, nullptr, stream).step(); }

void one_layer_logits_cuda(const OneLayerCudaStep& step, float* logits_RN, void* stream) { one_layer::Launcher(step, logits_RN, stream).forward(); }

}  // namespace mnemo
