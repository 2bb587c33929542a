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
};

/// The settings together with the bias corrections 1 - beta^t of one parameter's t-th update (t >= 1).
template <class Real>
struct AdamCoefficients {
  Real step_size, beta2, gain1, gain2, eps, weight_decay, inverse_sqrt_correction2;  // gain = 1 - beta, from double

  MNEMO_HOST_DEVICE AdamCoefficients(const AdamScalars& s, double correction1, double correction2)
      : step_size(static_cast<Real>(s.lr / correction1)),
        beta2(static_cast<Real>(s.beta2)),
        gain1(static_cast<Real>(1 - s.beta1)),
        gain2(static_cast<Real>(1 - s.beta2)),
        eps(static_cast<Real>(s.eps)),
        weight_decay(static_cast<Real>(s.weight_decay)),
        inverse_sqrt_correction2(static_cast<Real>(1 / std::sqrt(correction2))) {}
};

/// Kingma and Ba (2015), with coupled L2 decay as torch.optim.Adam has it:
///   g += decay p,  m = beta1 m + (1 - beta1) g,  v = beta2 v + (1 - beta2) g^2,  p -= lr m^ / (sqrt(v^) + eps)
template <class Real>
MNEMO_HOST_DEVICE inline void adam_update(Real& p, Real g, Real& m, Real& v, const AdamCoefficients<Real>& c) {
  g += c.weight_decay * p;
  m += c.gain1 * (g - m);
  v = c.beta2 * v + c.gain2 * g * g;
  p -= c.step_size * m / (std::sqrt(v) * c.inverse_sqrt_correction2 + c.eps);
}

}  // namespace mnemo
