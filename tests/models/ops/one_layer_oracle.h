#pragma once

#include "models/ops/one_layer_step.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <string>
#include <vector>

// The one-layer transformer of MATHS 2 written down row by row, forward and backward, with loops and nothing else.

namespace mnemo::oracle {

/// Tensors by name, in one place.
template <class Real>
using Tensors = std::map<std::string, std::vector<Real>>;

inline std::map<std::string, std::int64_t> sizes_of(const OneLayerShape& shape) {
  const auto C = shape.heads * shape.head_dim, D = shape.mlp_width;
  std::map<std::string, std::int64_t> sizes{
      {"wte.weight", 2 * C}, {"wpe.weight", shape.length * C}, {"c_attn.weight", 3 * C * C}, {"c_attn.bias", 3 * C}, {"ln_f.weight", C},
      {"ln_f.bias", C},      {"lm_head.weight", 2 * D},        {"lm_head.bias", 2}};
  for (std::int64_t j = 0; j < shape.mlp_layers; ++j) {
    sizes["linear_modules." + std::to_string(j) + ".weight"] = D * (j == 0 ? C : D);
    sizes["linear_modules." + std::to_string(j) + ".bias"] = D;
  }
  return sizes;
}

template <class Real>
Tensors<Real> zeros(const OneLayerShape& shape) {
  Tensors<Real> tensors;
  for (const auto& [name, size] : sizes_of(shape)) tensors[name].assign(static_cast<std::size_t>(size), 0);
  return tensors;
}

template <class To, class From>
Tensors<To> cast(const Tensors<From>& tensors) {
  Tensors<To> result;
  for (const auto& [name, values] : tensors) result[name].assign(values.begin(), values.end());
  return result;
}

/// Pointers into `tensors` as the step wants them; `Real` may be const.
template <class Real, class Map>
OneLayerTensors<Real> pointers(Map& tensors, const OneLayerShape& shape) {
  OneLayerTensors<Real> result{};
  const auto at = [&](const std::string& name) { return tensors.at(name).data(); };
  result.wte = at("wte.weight"), result.wpe = at("wpe.weight");
  result.c_attn_weight = at("c_attn.weight"), result.c_attn_bias = at("c_attn.bias");
  result.ln_weight = at("ln_f.weight"), result.ln_bias = at("ln_f.bias");
  for (std::int64_t j = 0; j < shape.mlp_layers; ++j) {
    result.mlp_weight[static_cast<std::size_t>(j)] = at("linear_modules." + std::to_string(j) + ".weight");
    result.mlp_bias[static_cast<std::size_t>(j)] = at("linear_modules." + std::to_string(j) + ".bias");
  }
  result.head_weight = at("lm_head.weight"), result.head_bias = at("lm_head.bias");
  return result;
}

struct Outcome {
  double loss = 0, accuracy = 0;
  std::vector<double> logits;  // (B, L-1)
};

/// y = W x + b, and its gradients.
template <class Real>
std::vector<Real> linear(const std::vector<Real>& W, const std::vector<Real>& b, const std::vector<Real>& x) {
  std::vector<Real> y(b);
  for (std::size_t o = 0; o < y.size(); ++o) {
    for (std::size_t c = 0; c < x.size(); ++c) y[o] += W[o * x.size() + c] * x[c];
  }
  return y;
}
template <class Real>
std::vector<Real> linear_backward(const std::vector<Real>& W, const std::vector<Real>& x, const std::vector<Real>& dy, std::vector<Real>& dW,
                                  std::vector<Real>& db) {
  std::vector<Real> dx(x.size(), 0);
  for (std::size_t o = 0; o < dy.size(); ++o) {
    db[o] += dy[o];
    for (std::size_t c = 0; c < x.size(); ++c) {
      dW[o * x.size() + c] += dy[o] * x[c];
      dx[c] += dy[o] * W[o * x.size() + c];
    }
  }
  return dx;
}

/// Loss, accuracy and logits of rows of bits with weights; adds the gradient to `gradient`.
template <class Real>
Outcome step(const OneLayerShape& shape, const Tensors<Real>& w, const std::vector<std::vector<int>>& bits, const std::vector<double>& row_weight,
             Tensors<Real>& gradient) {
  const auto H = static_cast<std::size_t>(shape.heads), F = static_cast<std::size_t>(shape.head_dim), C = H * F,
             P = static_cast<std::size_t>(shape.length - 1), n = static_cast<std::size_t>(shape.mlp_layers);
  const auto scale = static_cast<Real>(1 / std::sqrt(static_cast<double>(F)));
  const auto mlp = [](std::size_t j, const char* what) { return "linear_modules." + std::to_string(j) + what; };
  Outcome outcome;
  for (std::size_t r = 0; r < bits.size(); ++r) {
    std::vector<std::vector<Real>> x(P), qkv(P), dqkv(P, std::vector<Real>(3 * C, 0));
    for (std::size_t i = 0; i < P; ++i) {
      const auto bit = static_cast<std::size_t>(bits[r][i]);
      x[i].resize(C);
      for (std::size_t c = 0; c < C; ++c) x[i][c] = w.at("wte.weight")[bit * C + c] + w.at("wpe.weight")[i * C + c];
      qkv[i] = linear(w.at("c_attn.weight"), w.at("c_attn.bias"), x[i]);
    }
    for (std::size_t i = 0; i < P; ++i) {
      std::vector<Real> o(C, 0), attention(H * (i + 1));
      for (std::size_t h = 0; h < H; ++h) {
        Real* a = &attention[h * (i + 1)];
        for (std::size_t j = 0; j <= i; ++j) {
          a[j] = 0;
          for (std::size_t f = h * F; f < (h + 1) * F; ++f) a[j] += qkv[i][f] * qkv[j][C + f];
          a[j] *= scale;
        }
        const Real maximum = *std::max_element(a, a + i + 1);
        Real sum = 0;
        for (std::size_t j = 0; j <= i; ++j) sum += a[j] = std::exp(a[j] - maximum);
        for (std::size_t j = 0; j <= i; ++j) {
          a[j] /= sum;
          for (std::size_t f = h * F; f < (h + 1) * F; ++f) o[f] += a[j] * qkv[j][2 * C + f];
        }
      }
      Real mean = 0, variance = 0;
      for (const auto v : o) mean += v / static_cast<Real>(C);
      for (const auto v : o) variance += (v - mean) * (v - mean) / static_cast<Real>(C);
      const Real inverse = 1 / std::sqrt(variance + Real(1e-5));
      std::vector<Real> normalised(C);
      std::vector<std::vector<Real>> h(n + 1), arg(n);
      h[0].resize(C);
      for (std::size_t c = 0; c < C; ++c) {
        normalised[c] = (o[c] - mean) * inverse;
        h[0][c] = normalised[c] * w.at("ln_f.weight")[c] + w.at("ln_f.bias")[c];
      }
      for (std::size_t j = 0; j < n; ++j) {
        arg[j] = linear(w.at(mlp(j, ".weight")), w.at(mlp(j, ".bias")), h[j]);
        h[j + 1].resize(arg[j].size());
        for (std::size_t d = 0; d < arg[j].size(); ++d) h[j + 1][d] = std::max(arg[j][d], Real{0}) + (j > 0 ? h[j][d] : Real{0});
      }
      const auto pair = linear(w.at("lm_head.weight"), w.at("lm_head.bias"), h[n]);
      const Real z = pair[1] - pair[0];
      const int next = bits[r][i + 1];
      const double weight = row_weight[r] / static_cast<double>(P);
      outcome.logits.push_back(z);
      outcome.loss += weight * (std::max<double>(z, 0) - next * static_cast<double>(z) + std::log1p(std::exp(-std::abs(static_cast<double>(z)))));
      outcome.accuracy += weight * (z == 0 ? 0.5 : (z > 0) == (next == 1) ? 1.0 : 0.0);

      const Real tail = std::exp(-std::abs(z));
      const Real sigmoid = z > 0 ? 1 / (1 + tail) : tail / (1 + tail), other = z > 0 ? tail / (1 + tail) : 1 / (1 + tail);
      const Real dz = static_cast<Real>(weight) * (next == 1 ? -other : sigmoid);
      auto dh = linear_backward<Real>(w.at("lm_head.weight"), h[n], {-dz, dz}, gradient["lm_head.weight"], gradient["lm_head.bias"]);
      for (std::size_t j = n; j-- > 0;) {
        auto darg = dh;
        for (std::size_t d = 0; d < darg.size(); ++d) darg[d] = arg[j][d] > 0 ? dh[d] : Real{0};
        auto below = linear_backward<Real>(w.at(mlp(j, ".weight")), h[j], darg, gradient[mlp(j, ".weight")], gradient[mlp(j, ".bias")]);
        for (std::size_t d = 0; j > 0 && d < below.size(); ++d) below[d] += dh[d];
        dh = below;
      }
      Real sum = 0, product = 0;
      std::vector<Real> g(C), d_o(C);
      for (std::size_t c = 0; c < C; ++c) {
        gradient["ln_f.weight"][c] += dh[c] * normalised[c];
        gradient["ln_f.bias"][c] += dh[c];
        g[c] = dh[c] * w.at("ln_f.weight")[c];
        sum += g[c] / static_cast<Real>(C);
        product += g[c] * normalised[c] / static_cast<Real>(C);
      }
      for (std::size_t c = 0; c < C; ++c) d_o[c] = (g[c] - sum - normalised[c] * product) * inverse;
      for (std::size_t head = 0; head < H; ++head) {
        const Real* a = &attention[head * (i + 1)];
        std::vector<Real> da(i + 1, 0);
        Real mean_da = 0;
        for (std::size_t j = 0; j <= i; ++j) {
          for (std::size_t f = head * F; f < (head + 1) * F; ++f) {
            da[j] += d_o[f] * qkv[j][2 * C + f];
            dqkv[j][2 * C + f] += a[j] * d_o[f];
          }
          mean_da += a[j] * da[j];
        }
        for (std::size_t j = 0; j <= i; ++j) {
          const Real dscore = a[j] * (da[j] - mean_da) * scale;
          for (std::size_t f = head * F; f < (head + 1) * F; ++f) {
            dqkv[i][f] += dscore * qkv[j][C + f];
            dqkv[j][C + f] += dscore * qkv[i][f];
          }
        }
      }
    }
    for (std::size_t i = 0; i < P; ++i) {
      const auto dx = linear_backward<Real>(w.at("c_attn.weight"), x[i], dqkv[i], gradient["c_attn.weight"], gradient["c_attn.bias"]);
      for (std::size_t c = 0; c < C; ++c) {
        gradient["wte.weight"][static_cast<std::size_t>(bits[r][i]) * C + c] += dx[c];
        gradient["wpe.weight"][i * C + c] += dx[c];
      }
    }
  }
  return outcome;
}

}  // namespace mnemo::oracle
