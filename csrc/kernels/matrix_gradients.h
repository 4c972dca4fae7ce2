// Products of gradients on matrix units, in bfloat16 with float32 sums: what weight_gradient.h and
// feed_forward_backward.h take there. Included by the instruction-set builds alone.
//
//      grad [rows, out]      grad^T              x [rows, in]      x in panels
//      +---------+         +-----------+         +---------+      +---+---+   pairs of rows
//      |         |  --->   | pairs of  |         |         | ---> |   |   |   are words, or fours
//      |         |         | rows      |         |         |      |   |   |   of them double words
//      +---------+         +-----------+         +---------+      +---+---+
//
// Both are rounded on the way. The sums that are a bias's gradient are of what was not. `Panels`: as matrix_attention.h
// has it.
#pragma once
#include "matrix_packing.h"
#include "transpose.h"

namespace {

constexpr int64_t kTransposedRows = 2 * kLanes;  // a step of rows: two blocks that are transposed

// grad [rows, columns] to `store(column, row, first, second)`: a column's next two vectors, zero past the last row.
// `load(from, column, lanes)`: a row's vector.
template <class T, class Load, class Store>
inline void transpose_steps(const T* grad, int64_t stride, int64_t rows, int64_t columns, Load load, Store store) {
  for (int64_t r = 0; r < rows; r += kTransposedRows) {
    for (int64_t c = 0; c < columns; c += kLanes) {
      const int lanes = static_cast<int>(least(kLanes, columns - c));
      Vec block[2][kLanes];
      for (int64_t i = 0; i < kTransposedRows; ++i) {
        block[i / kLanes][i % kLanes] = r + i < rows ? load(grad + (r + i) * stride + c, c, lanes) : broadcast(0.0f);
      }
      transpose_block(block[0]);
      transpose_block(block[1]);
      for (int i = 0; i < lanes; ++i) store(c + i, r, block[0][i], block[1][i]);
    }
  }
}

template <class T>
inline void transpose_rounded(const T* grad, int64_t stride, int64_t rows, int64_t columns, uint16_t* to,
                              int64_t to_stride) {
  transpose_steps(
      grad, stride, rows, columns, [](const T* from, int64_t, int lanes) { return load_lanes(from, lanes); },
      [&](int64_t c, int64_t r, Vec first, Vec second) {
        store_pairs(to + c * to_stride + r, bfloat_pairs(first, second));
      });
}

// The sums that are a bias's gradient: of what was not rounded.
struct SumsOfRows {
  template <class T>
  static void add_up(const T* grad, int64_t stride, const uint16_t*, int64_t, int64_t rows, int64_t columns,
                     bool accumulate, float* bias) {
    for_each_vector(columns, [&](int64_t c, int lanes) {
      Vec total = accumulate ? load_lanes(bias + c, lanes) : broadcast(0.0f);
      for (int64_t r = 0; r < rows; r += kTransposedRows) {  // short sums first: a long one loses more
        Vec sum = broadcast(0.0f);
        const int64_t end = least(r + kTransposedRows, rows);
        for (int64_t i = r; i < end; ++i) sum = sum + load_lanes(grad + i * stride + c, lanes);
        total = total + sum;
      }
      store_lanes(bias + c, total, lanes);
    });
  }
};

template <class Panels>
struct MatrixGradients : SumsOfRows {
  using Micro = typename Panels::Micro;
  static constexpr int64_t kRowStep = Panels::kStep, kRows = 256;
  static_assert(kRowStep == kTransposedRows, "");

  template <class T>
  static void transpose(const T* grad, int64_t stride, int64_t rows, int64_t columns, uint16_t* to, int64_t to_stride,
                        float*) {
    transpose_rounded(grad, stride, rows, columns, to, to_stride);
  }

  template <class T>
  static void pack(const T* x, int64_t stride, int64_t rows, int64_t columns, uint16_t* panels, float*) {
    pack_rows_rounded<Panels>(x, stride, rows, columns, panels);
  }
};

}  // namespace
