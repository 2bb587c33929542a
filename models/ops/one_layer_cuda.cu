#include "models/ops/one_layer_cuda.h"

#include "models/ops/one_layer_attention_cuda.cuh"
#include "models/ops/one_layer_mlp_cuda.cuh"

#include <algorithm>
#include <limits>
#include <stdexcept>
#include <string>

namespace mnemo {

namespace one_layer {
namespace {

/// Gives out pieces of the work space, or only counts where there is none.
class Pieces {
 public:
  explicit Pieces(void* work) : work_(static_cast<unsigned char*>(work)) {}

  template <class T>
  void take(T*& piece, std::size_t count) {
    piece = work_ == nullptr ? nullptr : reinterpret_cast<T*>(work_ + used_);
    used_ += (count * sizeof(T) + 255) / 256 * 256;
  }
  std::size_t used() const { return used_; }

 private:
  unsigned char* work_;
  std::size_t used_ = 0;
};

/// Lays the work space out; returns its bytes.
std::size_t lay_out(Arguments& s) {
  const auto size = [](int n) { return static_cast<std::size_t>(n); };
  const auto &shape = s.step.shape;
  const std::size_t R = size(s.batch().replicas), N = size(s.batch().capacity()), P = size(s.batch().positions()), T = 2 * P;
  const std::size_t H = size(shape.heads), C = size(s.C()), D = size(s.D()), A = C + H, blocks = size(s.cell_blocks());
  Pieces pieces(s.step.work);
  for (auto* table : {&s.qkv, &s.dqkv}) pieces.take(*table, R * T * 3 * C);
  for (auto* square : {&s.score, &s.weight}) pieces.take(*square, R * H * T * T);
  pieces.take(s.gap, R * H * T);
  pieces.take(s.top, R * N * H);
  for (auto* columns : {&s.attended, &s.dattended}) pieces.take(*columns, R * N * A);
  pieces.take(s.moments, R * N * 2);
  pieces.take(s.normalised, R * N * C);
  for (auto& dhidden : s.dhidden) pieces.take(dhidden, R * N * std::max(C, D));
  pieces.take(s.dproduct, R * T * (P + 1) * A);
  pieces.take(s.dinput, R * T * C);
  for (int layer = 0; layer < shape.mlp_layers; ++layer) {
    pieces.take(s.hidden[layer], R * N * D);
    pieces.take(s.live[layer], R * N * D);
    pieces.take(s.mlp_partial[layer], R * size(s.chunks(layer)) * s.layer_size(layer));
  }
  pieces.take(s.norm_partial, R * blocks * 2 * C);
  pieces.take(s.head_partial, R * blocks * (D + 1));
  pieces.take(s.loss_partial, R * blocks * 2);
  return pieces.used();
}

void check_sizes(const OneLayerCudaShape& shape, const DeviceBatchShape& batch) {
  const auto least = std::min({shape.heads, shape.head_dim, shape.mlp_width, shape.mlp_layers, batch.replicas, batch.batch, batch.length - 1});
  const auto cells = static_cast<double>(batch.batch) * batch.length, slices = static_cast<double>(batch.replicas) * shape.heads;
  if (least < 1 || shape.mlp_layers > kMaxMlpLayers || batch.first_predicted_bit != 1 || slices > 65535 ||
      cells > std::numeric_limits<int>::max() / 2 || static_cast<double>(shape.heads) * shape.head_dim > 1 << 20 || shape.mlp_width > 1 << 20) {
    throw std::invalid_argument("[one_layer_cuda] cannot have R=" + std::to_string(batch.replicas) + ", B=" + std::to_string(batch.batch) + ", L=" +
                                std::to_string(batch.length) + ", first bit " + std::to_string(batch.first_predicted_bit) + ", H=" +
                                std::to_string(shape.heads) + ", F=" + std::to_string(shape.head_dim) + ", D=" + std::to_string(shape.mlp_width) + ", " +
                                std::to_string(shape.mlp_layers) + " layers");
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

  void forward() const {
    const auto tiles = parts(tokens(), kGemmSide);
    product<ProjectTokens>(tiles, parts(3 * s_.C(), kGemmSide), R());
    product<Scores>(tiles, tiles, R() * H());
    run<weigh_scores>(parts(tokens(), kWarps), H(), R(), 32 * kWarps);
    run<attend>(tokens() * parts(s_.batch().batch, kAttendTile), parts(s_.columns(), kColumns), R(), 32 * kWarps);
    run<normalise>(parts(N(), kWarps), R(), 1, 32 * kWarps);
    for (int layer = 0; layer < layers(); ++layer) mlp_product<Layer>(parts(N(), kGemmSide), parts(s_.D(), kGemmSide), layer);
    run<head>(s_.cell_blocks(), R(), 1, 32 * kWarps);
  }

  void backward() const {
    for (int layer = layers() - 1; layer >= 0; --layer) {
      const auto columns = parts(s_.inputs(layer), kGemmSide);
      mlp_product<LayerInputGradient>(parts(N(), kGemmSide), columns, layer);
      mlp_product<LayerWeightGradient>(parts(s_.D(), kGemmSide) * s_.chunks(layer), columns, layer);
    }
    run<normalise_backward>(s_.cell_blocks(), R(), 1, 32 * kWarps);
    run<merge_partials>(merge_blocks(), layers() + 2, R(), 32 * kWarps);
    run<scatter>(tokens(), parts(s_.columns(), kColumns), R(), 32 * kWarps);
    run<score_gradients>(tokens(), R(), 1, 256);
    run<token_gradients>(tokens(), 3, R(), std::min(256, parts(s_.C(), 32) * 32));
    product<ProjectionGradient>(parts(3 * s_.C(), kGemmSide), parts(s_.C(), kGemmSide), R());
    product<InputGradient>(parts(tokens(), kGemmSide), parts(s_.C(), kGemmSide), R());
    run<embedding_gradients>(s_.batch().length + 2, parts(s_.C(), 128), R(), 128);
  }

 private:
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
  void run(int x, int y, int z, int threads, More... more) const {
    simt::launch<kernel>(dim3(unsigned(x), unsigned(y), unsigned(z)), unsigned(threads), 0, stream_, s_, more...);
  }
  template <class Product>
  void product(int x, int y, int z) const {
    run<gemm<Product, false, Arguments>>(x, y, z, kGemmThreads, 0);
  }
  template <class Product>
  void mlp_product(int x, int y, int layer) const {
    s_.step.tf32 ? run<gemm<Product, true, Arguments>>(x, y, R(), kGemmThreads, layer)
                 : run<gemm<Product, false, Arguments>>(x, y, R(), kGemmThreads, layer);
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

void one_layer_gradient_cuda(const OneLayerCudaStep& step, void* stream) {
  const one_layer::Launcher launcher(step, nullptr, stream);
  launcher.forward();
  launcher.backward();
}

void one_layer_logits_cuda(const OneLayerCudaStep& step, float* logits_RN, void* stream) {
  one_layer::Launcher(step, logits_RN, stream).forward();
}

}  // namespace mnemo
