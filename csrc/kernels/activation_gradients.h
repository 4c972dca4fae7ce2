// Derivatives of the activations, over one vector. Included by the instruction-set builds alone.
#pragma once
#include "activations.h"
#include "vectors.h"

namespace {

// An activation's value and derivative at one place.
struct Slope {
  Vec value, derivative;
};

// Beyond 100 every derivative is 0 or 1 to the last bit. The formulas below, of x itself, are 0 times infinity there.
inline Vec near_zero(Vec x) { return maximum(broadcast(-100.0f), minimum(broadcast(100.0f), x)); }

// Phi(x) + x phi(x)
inline Slope gelu_slope(Vec x) {
  const Vec near = near_zero(x), phi = phi_by(x, kGeluScale, kGeluCoefficients);
  const Vec density = exponential(near * near * broadcast(-0.5f)) * broadcast(0.3989422804f);
  return {x * phi, multiply_add(near, density, phi)};
}

// The derivative of x sigmoid(z) where z's is `slope`: sigmoid + x slope sigmoid (1 - sigmoid). The last factor is
// computed as e^-z sigmoid, since the difference would lose its digits.
inline Vec sigmoid_derivative(Vec x, Vec z, Vec slope) {
  const Vec one = broadcast(1.0f), e = exponential(minimum(broadcast(0.0f) - z, broadcast(88.0f)));
  const Vec sigmoid = one / (one + e);
  return multiply_add(x * slope * sigmoid, e * sigmoid, sigmoid);
}

inline Slope gelu_tanh_slope(Vec x) {
  const Vec near = near_zero(x), square = near * near;
  const Vec z = near * multiply_add(square, broadcast(0.0713548162726f), broadcast(1.59576912161f));
  const Vec slope = multiply_add(square, broadcast(0.2140644488178f), broadcast(1.59576912161f));
  return {gelu_tanh(x), sigmoid_derivative(near, z, slope)};
}

inline Slope silu_slope(Vec x) {
  const Vec near = near_zero(x);
  return {silu(x), sigmoid_derivative(near, near, broadcast(1.0f))};
}

inline Slope tanh_slope(Vec x) {
  const Vec y = hyperbolic_tangent(x);
  return {y, broadcast(1.0f) - y * y};
}

inline Slope relu_slope(Vec x) { return {relu(x), where_positive(x, broadcast(1.0f))}; }

template <Slope (*slope_of)(Vec)>
inline void activation_backward(bool keep, float* z, float* grad, int64_t count) {
  for_each_vector(count, [&](int64_t i, int lanes) {
    const Slope slope = slope_of(load_lanes(z + i, lanes));
    store_lanes(grad + i, load_lanes(grad + i, lanes) * slope.derivative, lanes);
    if (keep) store_lanes(z + i, slope.value, lanes);
  });
}

inline void activation_backward(Activation activation, bool keep, float* z, float* grad, int64_t count) {
  switch (activation) {
    case Activation::none:
      return;
    case Activation::gelu:
      return activation_backward<gelu_slope>(keep, z, grad, count);
    case Activation::gelu_tanh:
      return activation_backward<gelu_tanh_slope>(keep, z, grad, count);
    case Activation::relu:
      return activation_backward<relu_slope>(keep, z, grad, count);
    case Activation::silu:
      return activation_backward<silu_slope>(keep, z, grad, count);
    case Activation::tanh:
      return activation_backward<tanh_slope>(keep, z, grad, count);
  }
}

}  // namespace
