// What follows the sums of a tile: bias, what is added to, activation. Included by the instruction-set builds alone.
#pragma once
#include "activations.h"
#include "formats.h"

namespace {

// The end of a tile. `columns` is a copy, and what can be known before is known before: a store through y might change
// what a reference refers to, and the compiler would read it again for every vector.
template <class Format, int kRows, int kVectors, bool kAccumulate>
inline __attribute__((always_inline)) void store_tile(const typename Format::Sum (&sum)[kRows][kVectors],
                                                      const Columns columns, float* y, int64_t y_row_stride,
                                                      int last_lanes) {
#pragma GCC unroll 4
  for (int j = 0; j < kVectors; ++j, y += kLanes) {
    const bool whole = j + 1 < kVectors || last_lanes == kLanes;
    const Vec bias = columns.bias ? load(columns.bias + j * kLanes) : broadcast(0.0f);
    const auto scale = Format::scale_of(columns, j * kLanes);
    if (whole) {
      float* out = y;
#pragma GCC unroll 16
      for (int r = 0; r < kRows; ++r, out += y_row_stride) {
        Vec total = Format::finish(sum[r][j], scale, columns, r);
        if (kAccumulate) total = total + load(out);
        store(out, total + bias);
      }
    } else {
      float* out = y;
#pragma GCC unroll 16
      for (int r = 0; r < kRows; ++r, out += y_row_stride) {
        Vec total = Format::finish(sum[r][j], scale, columns, r);
        if (kAccumulate) total = total + load_first(out, last_lanes);
        store_first(out, total + bias, last_lanes);
      }
    }
  }
}

template <Vec (*function)(Vec), class Store>
inline void apply(const float* y, int64_t row_stride, int64_t rows, int64_t columns, Store store_to) {
  for (int64_t r = 0; r < rows; ++r, y += row_stride) {
    for_each_vector(columns, [&](int64_t j, int lanes) { store_to(r, j, function(load_lanes(y + j, lanes)), lanes); });
  }
}

inline Vec unchanged(Vec x) { return x; }

// store_to(row, column, vector, lanes) takes the results.
template <class Format, class Store>
inline void activate(Activation activation, const float* y, int64_t row_stride, int64_t rows, int64_t columns,
                     Store store_to) {
  switch (activation) {
    case Activation::none:
      return apply<unchanged>(y, row_stride, rows, columns, store_to);
    case Activation::gelu:
      return apply<Format::kCoarse ? coarse_gelu : gelu>(y, row_stride, rows, columns, store_to);
    case Activation::gelu_tanh:
      return apply<gelu_tanh>(y, row_stride, rows, columns, store_to);
    case Activation::relu:
      return apply<relu>(y, row_stride, rows, columns, store_to);
    case Activation::silu:
      return apply<silu>(y, row_stride, rows, columns, store_to);
    case Activation::tanh:
      return apply<hyperbolic_tangent>(y, row_stride, rows, columns, store_to);
  }
}

template <class Format>
inline void activate(Activation activation, float* y, int64_t row_stride, int64_t rows, int64_t columns) {
  if (activation == Activation::none) return;
  activate<Format>(activation, y, row_stride, rows, columns, [&](int64_t row, int64_t column, Vec v, int lanes) {
    store_lanes(y + row * row_stride + column, v, lanes);
  });
}

inline void activate(Activation activation, float* x, int64_t count) {
  activate<Float32>(activation, x, count, 1, count);
}

}  // namespace
