#pragma once

// The arithmetic of one Adam update, in one place for the CPU loop and the CUDA kernel. Plain C++17.

#include <cmath>
#include <cstdint>

#ifdef __CUDACC__
#define MNEMO_HOST_DEVICE __host__ __device__
#else
#define MNEMO_HOST_DEVICE
#endif

namespace mnemo {

/// Adam's settings for one replica.
struct AdamScalars {
  double lr, beta1, beta2, eps, weight_decay;
  bool decoupled = false;         ///< decay as AdamW has it
  double clip_norm = 0;           ///< the longest gradient, over all tensors that are not frozen; 0 = any
  std::int64_t warmup = 0;        ///< updates in which the learning rate grows to lr
  std::int64_t cosine_steps = 0;  ///< after the warm-up it falls along half a cosine, to 0 after this update; 0 = it stays
};

/// What a replica's settings make of one update.
struct AdamRates {
  double lr;
  double gradient_scale;  ///< that a gradient longer than clip_norm is shortened by
};

/// The learning rate of update n = 1, 2, ... of a run:
///   lr n / warmup  while n <= warmup,  then lr,  or  lr (1 + cos(pi (n - 1 - warmup) / (cosine_steps - warmup))) / 2
/// With no warm-up the cosine is torch's CosineAnnealingLR. In float64; cosines of a GPU and of the CPU may differ in the last bit.
MNEMO_HOST_DEVICE inline double learning_rate(const AdamScalars& s, std::int64_t n) {
  if (n <= s.warmup) return s.lr * (static_cast<double>(n) / static_cast<double>(s.warmup));
  if (s.cosine_steps == 0) return s.lr;
  const double way = static_cast<double>(n - 1 - s.warmup) / static_cast<double>(s.cosine_steps - s.warmup);
#ifdef __CUDA_ARCH__
  const double cosine = cospi(way);  // which needs no stack for large angles
#else
  const double cosine = std::cos(3.14159265358979323846 * way);
#endif
  return s.lr * (0.5 * (1 + cosine));
}

/// What a gradient of this squared norm, which is finite, is multiplied by: clip_norm / norm where it is longer, as clip_grad_norm_ of torch (which
/// adds 1e-6 to the norm).
MNEMO_HOST_DEVICE inline double clipping_scale(double clip_norm, double squared_norm) {
  const double norm = std::sqrt(squared_norm);
  return norm > clip_norm ? clip_norm / norm : 1;
}

/// The settings together with the bias corrections 1 - beta^t of one parameter's t-th update (t >= 1).
template <class Real>
struct AdamCoefficients {
  Real step_size, gradient_scale, beta2, gain1, gain2, eps, coupled_decay, kept, inverse_sqrt_correction2;  // gain = 1 - beta, from double

  MNEMO_HOST_DEVICE AdamCoefficients(const AdamScalars& s, const AdamRates& rates, double correction1, double correction2)
      : step_size(static_cast<Real>(rates.lr / correction1)),
        gradient_scale(static_cast<Real>(rates.gradient_scale)),
        beta2(static_cast<Real>(s.beta2)),
        gain1(static_cast<Real>(1 - s.beta1)),
        gain2(static_cast<Real>(1 - s.beta2)),
        eps(static_cast<Real>(s.eps)),
        coupled_decay(static_cast<Real>(s.decoupled ? 0 : s.weight_decay)),
        kept(static_cast<Real>(s.decoupled ? 1 - rates.lr * s.weight_decay : 1)),
        inverse_sqrt_correction2(static_cast<Real>(1 / std::sqrt(correction2))) {}

  /// Whether gradients and parameters are taken as they are: two products less.
  bool is_plain() const { return gradient_scale == 1 && kept == 1; }
};

/// A product that is rounded: never one half of a fused operation, so that a scale of 1 changes no bit of what follows.
template <class Real>
MNEMO_HOST_DEVICE inline Real rounded_product(Real a, Real b) {
#ifdef __CUDA_ARCH__
  if constexpr (sizeof(Real) == sizeof(float)) {
    return __fmul_rn(a, b);
  } else {
    return __dmul_rn(a, b);
  }
#else
  return a * b;
#endif
}

/// Kingma and Ba (2015), with decay as torch.optim.Adam (coupled: L2) or AdamW (decoupled: Loshchilov and Hutter, 2019) has it:
///   g = scale g + coupled_decay p,  m = beta1 m + (1 - beta1) g,  v = beta2 v + (1 - beta2) g^2,  p = kept p - lr m^ / (sqrt(v^) + eps)
/// `kPlain`: the coefficients are; the bits are the same.
template <bool kPlain = false, class Real>
MNEMO_HOST_DEVICE inline void adam_update(Real& p, Real g, Real& m, Real& v, const AdamCoefficients<Real>& c) {
  if (!kPlain) g = rounded_product(c.gradient_scale, g);
  g += c.coupled_decay * p;
  m += c.gain1 * (g - m);
  v = c.beta2 * v + c.gain2 * g * g;
  p = (kPlain ? p : c.kept * p) - c.step_size * m / (std::sqrt(v) * c.inverse_sqrt_correction2 + c.eps);
}

}  // namespace mnemo
