// Rows to columns, and products of what a kernel has just computed: activations and gradients, which are not packed
// ahead as weights are. Included by the instruction-set builds alone.
#pragma once
#include "add_layer_norm.h"
#include "micro/vector_tile.h"
#include "transpose.h"

namespace {

// k, rows of `stride` floats, to panels [head_size, kPanelColumns]; columns past the last key are zero. `row_of` names
// the row of a key.
template <class RowOf>
inline void transpose_keys(const float* k, int64_t stride, int64_t head_size, int64_t count, RowOf row_of,
                           float* keys) {
  for (int64_t first = 0; first < count; first += kLanes) {
    float* panel = keys + first / kPanelColumns * kPanelColumns * head_size + first % kPanelColumns;
    for (int64_t c = 0; c < head_size; c += kLanes) {
      Vec block[kLanes];
      for (int i = 0; i < kLanes; ++i) {
        block[i] = first + i < count ? load(k + row_of(first + i) * stride + c) : broadcast(0.0f);
      }
      transpose_block(block);
      const int64_t real = least(kLanes, head_size - c);
      for (int64_t i = 0; i < real; ++i) store(panel + (c + i) * kPanelColumns, block[i]);
    }
  }
}

// Rows [depth, columns] to a product's panels: what `pack` makes of weights [columns, depth]. Rows are read to their
// end, since that is what a CPU fetches ahead.
template <class T>
inline void pack_rows(const T* from, int64_t stride, int64_t depth, int64_t columns, float* panels) {
  for (int64_t k = 0; k < depth; ++k, from += stride) {
    for (int64_t n = 0; n < columns; n += kPanelColumns) {
      const int64_t width = least(kPanelColumns, columns - n);
      float* panel = panels + n * depth + k * padded_columns(width);
      for_each_vector(width, [&](int64_t j, int lanes) { store(panel + j, load_lanes(from + n + j, lanes)); });
    }
  }
}

// y = x * panels, for panels of full width: [depth, kPanelColumns] each.
inline void times_panels(const float* x, int64_t x_stride, int64_t rows, const float* panels, int64_t depth,
                         int64_t columns, float* y, int64_t y_stride) {
  const EvenRows blocks({0, rows}, kTileRows);
  for (int64_t t = 0; t < blocks.count; ++t) {
    const Rows some = blocks[t];
    for (int64_t n = 0; n < columns; n += kPanelColumns) {
      const int64_t vectors = divide_up(least(kPanelColumns, columns - n), static_cast<int64_t>(kLanes));
      tile_of<Float32, false>(some.end - some.begin, vectors)(x + some.begin * x_stride, x_stride, panels + n * depth,
                                                              kPanelColumns, depth, Columns{}, false,
                                                              y + some.begin * y_stride + n, y_stride, kLanes, nullptr);
    }
  }
}

// y (+)= x * v for v as it lies, [depth, whole vectors].
template <int kVectors>
inline void times_rows(const float* x, int64_t x_stride, int64_t rows, const float* v, int64_t v_stride, int64_t depth,
                       bool accumulate, float* y, int64_t y_stride) {
  const EvenRows blocks({0, rows}, kRowsOf<Float32, kVectors>);
  for (int64_t t = 0; t < blocks.count; ++t) {
    const Rows some = blocks[t];
    tile_of<Float32, kVectors, false>(some.end - some.begin)(x + some.begin * x_stride, x_stride, v, v_stride, depth,
                                                             Columns{}, accumulate, y + some.begin * y_stride, y_stride,
                                                             kLanes, nullptr);
  }
}

inline void times_rows(const float* x, int64_t x_stride, int64_t rows, const float* v, int64_t v_stride, int64_t depth,
                       bool accumulate, float* y, int64_t y_stride, int64_t vectors) {
  while (vectors > 0) {
    int64_t taken = least(vectors, 3);
    if constexpr (kMostVectors == 4) {
      if (vectors % 3 == 1 && vectors >= 4) taken = 4;
    }
    if (taken == 3) times_rows<3>(x, x_stride, rows, v, v_stride, depth, accumulate, y, y_stride);
    if (taken == 2) times_rows<2>(x, x_stride, rows, v, v_stride, depth, accumulate, y, y_stride);
    if (taken == 1) times_rows<1>(x, x_stride, rows, v, v_stride, depth, accumulate, y, y_stride);
    if constexpr (kMostVectors == 4) {
      if (taken == 4) times_rows<4>(x, x_stride, rows, v, v_stride, depth, accumulate, y, y_stride);
    }
    vectors -= taken;
    v += taken * kLanes;
    y += taken * kLanes;
  }
}

}  // namespace
