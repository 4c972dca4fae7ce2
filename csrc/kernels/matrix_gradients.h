// Products of gradients on matrix units, in bfloat16 with float32 sums: what weight_gradient.h and
// feed_forward_backward.h take there. Included by the instruction-set builds alone.
//
//      grad [rows, out]      grad^T              x [rows, in]      x in panels
//      +---------+         +-----------+         +---------+      +---+---+   pairs of rows
//      |         |  --->   | pairs of  |         |         | ---> |   |   |   are words
//      |         |         | rows      |         |         |      |   |   |
//      +---------+         +-----------+         +---------+      +---+---+
//
// Both are rounded on the way. The sums that are a bias's gradient are of what was not.
#pragma once
#include "micro/matrix_tile.h"
#include "transpose.h"

namespace {

template <class Tiles>
struct MatrixGradients {
  using Micro = MatrixTile<MatrixBfloat16, Tiles>;
  static constexpr int64_t kRowStep = Micro::kDepthStep;
  static_assert(kRowStep == 2 * kLanes, "a step of rows is two blocks that are transposed");

  static void transpose(const float* grad, int64_t stride, int64_t rows, int64_t columns, uint16_t* to,
                        int64_t to_stride) {
    for (int64_t r = 0; r < rows; r += kRowStep) {
      for (int64_t c = 0; c < columns; c += kLanes) {
        const int lanes = static_cast<int>(least(kLanes, columns - c));
        Vec block[2][kLanes];
        for (int64_t i = 0; i < kRowStep; ++i) {
          block[i / kLanes][i % kLanes] =
              r + i < rows ? load_lanes(grad + (r + i) * stride + c, lanes) : broadcast(0.0f);
        }
        transpose_block(block[0]);
        transpose_block(block[1]);
        for (int i = 0; i < lanes; ++i) {
          store_pairs(to + (c + i) * to_stride + r, bfloat_pairs(block[0][i], block[1][i]));
        }
      }
    }
  }

  static void pack(const float* x, int64_t stride, int64_t rows, int64_t columns, uint16_t* panels) {
    pack_pairs_of_rows(x, stride, rows, columns, panels);
  }

  static void add_up(const float* grad, int64_t stride, const uint16_t*, int64_t, int64_t rows, int64_t columns,
                     bool accumulate, float* bias) {
    for_each_vector(columns, [&](int64_t c, int lanes) {
      Vec total = accumulate ? load_lanes(bias + c, lanes) : broadcast(0.0f);
      for (int64_t r = 0; r < rows; r += kRowStep) {  // short sums first: a long one loses more
        Vec sum = broadcast(0.0f);
        const int64_t end = least(r + kRowStep, rows);
        for (int64_t i = r; i < end; ++i) sum = sum + load_lanes(grad + i * stride + c, lanes);
        total = total + sum;
      }
      store_lanes(bias + c, total, lanes);
    });
  }
};

}  // namespace
