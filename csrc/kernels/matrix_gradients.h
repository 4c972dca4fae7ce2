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
#include "micro/matrix_bfloat16.h"
#include "transpose.h"

namespace {

template <class Panels>
struct MatrixGradients {
  using Micro = typename Panels::Micro;
  static constexpr int64_t kRowStep = Panels::kStep;
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
    const auto load_row = [&](int64_t k, int64_t n) {
      return k < rows ? bfloat_step(x + k * stride + n, columns - n) : broadcast(0.0f);
    };
    Panels::pack_rows(load_row, round_up(rows, kRowStep), columns, panels);
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
