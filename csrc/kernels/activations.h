// Activations over one vector, to float32 accuracy. Included by the instruction-set builds alone.
#pragma once
#include "gelu_polynomial.h"
#include "kernel_table.h"

namespace {

using squeezebert::Activation;

// e^x for x <= 89, where it is infinite, and about 1e-38 below -87: 2^n e^r, |r| <= ln(2)/2, with a polynomial in r.
// A NaN stays one: `maximum` returns its second argument when either is NaN.
inline Vec exponential(Vec x) {
  x = maximum(broadcast(-87.0f), x);
  const Vec n = round_nearest(x * broadcast(1.44269504f));
  Vec r = multiply_add(n, broadcast(-0.693145752f), x);
  r = multiply_add(n, broadcast(-1.42860677e-6f), r);
  Vec p = broadcast(1.98412698e-4f);
  p = multiply_add(p, r, broadcast(1.38888889e-3f));
  p = multiply_add(p, r, broadcast(8.33333333e-3f));
  p = multiply_add(p, r, broadcast(4.16666667e-2f));
  p = multiply_add(p, r, broadcast(1.66666667e-1f));
  p = multiply_add(p, r, broadcast(0.5f));
  p = multiply_add(p, r, broadcast(1.0f));
  p = multiply_add(p, r, broadcast(1.0f));
  return scale_by_power_of_two(p, n);
}

// x / (1 + e^-z), the shape that silu (z = x) and gelu's tanh form share. A NaN in x reaches the result through the
// quotient, whatever minimum and maximum make of it.
inline Vec times_sigmoid(Vec x, Vec z) {
  const Vec e = exponential(minimum(broadcast(0.0f) - z, broadcast(89.0f)));
  return x / (broadcast(1.0f) + e);
}

// Phi(x) = (1 + erf(x / sqrt 2)) / 2 = 1/2 + x P(x^2), of which gelu is x Phi(x).
//
// P is the minimax polynomial of degree 14 in x^2 on [0, 5.4^2] (benchmarks/fit_gelu.py): it is off by less than 3e-8
// in Phi, half an ulp, and needs no exponential and no division. It is written in s = x^2 * 2 / 5.4^2 - 1, in which its
// coefficients fall off and Horner's rule is stable. Beyond 5.4, x P grows past 1/2 and is cut off: Phi is 0 or 1
// there.
template <int kTerms>
inline Vec phi_by(Vec x, float scale, const float (&coefficients)[kTerms]) {
  const Vec s = minimum(multiply_add(x * x, broadcast(scale), broadcast(-1.0f)), broadcast(1.0f));
  Vec p = broadcast(coefficients[0]);
#pragma GCC unroll 16
  for (int i = 1; i < kTerms; ++i) p = multiply_add(p, s, broadcast(coefficients[i]));
  const Vec half = broadcast(0.5f);
  return maximum(minimum(x * p, half), broadcast(-0.5f)) + half;
}

inline Vec gelu(Vec x) { return x * phi_by(x, kGeluScale, kGeluCoefficients); }

// Several vectors side by side, operation by operation.
template <int kCount>
[[gnu::always_inline]] inline void gelu_side_by_side(Vec (&x)[kCount]) {
  const auto each = [](auto work) __attribute__((always_inline)) {
#pragma GCC unroll 4
    for (int i = 0; i < kCount; ++i) work(i);
  };
  Vec s[kCount], p[kCount];
  each([&](int i) __attribute__((always_inline)) { s[i] = x[i] * x[i]; });
  each([&](int i) __attribute__((always_inline)) {
    s[i] = minimum(multiply_add(s[i], broadcast(kGeluScale), broadcast(-1.0f)), broadcast(1.0f));
    p[i] = broadcast(kGeluCoefficients[0]);
  });
#pragma GCC unroll 16
  for (int k = 1; k < kGeluTerms; ++k) {
    each([&](int i)
             __attribute__((always_inline)) { p[i] = multiply_add(p[i], s[i], broadcast(kGeluCoefficients[k])); });
  }
  const Vec half = broadcast(0.5f);
  each([&](int i) __attribute__((always_inline)) { p[i] = minimum(x[i] * p[i], half); });
  each([&](int i) __attribute__((always_inline)) { x[i] = x[i] * (maximum(p[i], broadcast(-0.5f)) + half); });
}

// For what is rounded to int8 right after: half the terms, cut off at 3.9, within 2e-4 of x Phi(x).
inline Vec coarse_gelu(Vec x) { return x * phi_by(x, kCoarseGeluScale, kCoarseGeluCoefficients); }

inline Vec gelu_tanh(Vec x) {
  // tanh(u) / 2 + 1/2 = sigmoid(2u), u = sqrt(2/pi) (x + 0.044715 x^3)
  const Vec cubic = multiply_add(x * x, broadcast(0.0713548162726f), broadcast(1.59576912161f));
  return times_sigmoid(x, x * cubic);
}

inline Vec relu(Vec x) { return maximum(broadcast(0.0f), x); }

inline Vec silu(Vec x) { return times_sigmoid(x, x); }

// 1 - 2 / (e^2x + 1). Near zero that is a difference of nearly equal numbers, and x + x^3 P(x^2) takes its place, with
// the minimax polynomial for |x| <= 0.625 of Cephes' tanhf (S. Moshier).
inline Vec hyperbolic_tangent(Vec x) {
  constexpr float kNear = 0.625f;
  const Vec z = maximum(broadcast(-1.0f), minimum(broadcast(1.0f), x)), square = z * z;
  Vec p = broadcast(-5.70498872745e-3f);
  p = multiply_add(p, square, broadcast(2.06390887954e-2f));
  p = multiply_add(p, square, broadcast(-5.37397155531e-2f));
  p = multiply_add(p, square, broadcast(1.33314422036e-1f));
  p = multiply_add(p, square, broadcast(-3.33332819422e-1f));
  const Vec near = multiply_add(z * square, p, z);
  const Vec e = exponential(minimum(x + x, broadcast(89.0f)));
  const Vec far = broadcast(1.0f) - broadcast(2.0f) / (e + broadcast(1.0f));
  const Vec beyond = absolute(x) - broadcast(kNear);
  return (near - where_positive(beyond, near)) + where_positive(beyond, far);
}

}  // namespace
