// GELU by lookup, for results that are rounded right after. Included by the instruction-set builds alone.
#pragma once
#include "gelu_polynomial.h"
#include "kernel_table.h"

namespace {

// x Phi(x), within 2.1e-4, with three multiplications instead of the polynomial's eleven: beside products on tiles,
// they are what takes time. Phi is a quadratic in each of 31 stretches a quarter wide (benchmarks/fit_gelu.py); beyond
// kGeluLookupLimit the outermost two give exactly 0 and 1. A NaN stays one by the last product.
template <int kCount>
[[gnu::always_inline]] inline void lookup_gelu(Vec (&x)[kCount]) {
  const auto each = [](auto work) __attribute__((always_inline)) {
#pragma GCC unroll 4
    for (int i = 0; i < kCount; ++i) work(i);
  };
  const auto coefficient = [](int power) __attribute__((always_inline)) {
    return TableOf32{load(kGeluLookup[power]), load(kGeluLookup[power] + kLanes)};
  };
  const TableOf32 constant = coefficient(0), linear = coefficient(1), square = coefficient(2);
  Vec near[kCount], stretch[kCount], phi[kCount], next[kCount];
  each([&](int i) __attribute__((always_inline)) { near[i] = clamp(x[i], kGeluLookupLimit); });
  // A float of this size has quarters as its last bit.
  each([&](int i) __attribute__((always_inline)) { stretch[i] = near[i] + broadcast(0x1.8p21f); });
  each([&](int i) __attribute__((always_inline)) { phi[i] = look_up(square, stretch[i]); });
  each([&](int i) __attribute__((always_inline)) { next[i] = look_up(linear, stretch[i]); });
  each([&](int i) __attribute__((always_inline)) { phi[i] = multiply_add(phi[i], near[i], next[i]); });
  each([&](int i) __attribute__((always_inline)) { next[i] = look_up(constant, stretch[i]); });
  each([&](int i) __attribute__((always_inline)) { phi[i] = multiply_add(phi[i], near[i], next[i]); });
  each([&](int i) __attribute__((always_inline)) { x[i] = x[i] * phi[i]; });
}

}  // namespace
