// Panels of what a kernel has just made, and products with them, on bfmmla: what matrix_attention.h and
// matrix_gradients.h take, as micro/tile_panels.h gives it on tiles. A step is 8 numbers of bfloat16, two vectors of
// what becomes them, and two of the instruction's. Included by the instruction-set builds alone.
#pragma once
#include "mmla_tile.h"

namespace {

class MmlaPanels {
 public:
  using Micro = MmlaTile<MmlaBfloat16>;
  static constexpr int64_t kStep = Micro::kDepthStep, kPanel = Micro::kPanelColumns;
  // Of a block of scores, which takes half of a first-level cache of 64 KB with the weights made of it.
  static constexpr int64_t kQueries = 2 * Micro::kRows, kKeys = 264;
  static_assert(kStep == 2 * kLanes && kKeys % kPanel == 0 && kKeys % kStep == 0, "blocks are whole panels and steps");

  // A column of a panel has four numbers of a row for each of the instruction's steps, as they are.
  template <class Load>
  static void pack_columns(Load load, int64_t columns, int64_t depth, uint16_t* panels) {
    for (int64_t n = 0; n < columns; n += kPanel) {
      const int64_t width = padded_columns(least(kPanel, columns - n));
      for (int64_t i = 0; i < width; ++i) {
        uint16_t* to = panels + n * depth + i * kDeep;
        for (int64_t c = 0; c < depth; c += kStep, to += kStep * width) {
          const uint16x8_t numbers = vreinterpretq_u16_f32(n + i < columns ? load(n + i, c) : broadcast(0.0f));
          vst1_u16(to, vget_low_u16(numbers));
          vst1_u16(to + kDeep * width, vget_high_u16(numbers));
        }
      }
    }
  }

  // Four rows by eight columns, transposed, four columns at a time.
  template <class Load>
  static void pack_rows(Load load, int64_t depth, int64_t columns, uint16_t* panels) {
    for (int64_t k = 0; k < depth; k += kDeep) {
      for (int64_t n = 0; n < columns; n += kStep) {
        uint16x8_t rows[kDeep];
        for (int i = 0; i < kDeep; ++i) rows[i] = vreinterpretq_u16_f32(load(k + i, n));
        const auto store_four = [&](int64_t column, uint16x8_t even, uint16x8_t odd) {
          const int64_t panel = column / kPanel * kPanel;
          uint16_t* to =
              panels + panel * depth + k * padded_columns(least(kPanel, columns - panel)) + (column - panel) * kDeep;
          vst1q_u16(to, vzip1q_u16(even, odd));
          vst1q_u16(to + kStep, vzip2q_u16(even, odd));
        };
        store_four(n, vzip1q_u16(rows[0], rows[2]), vzip1q_u16(rows[1], rows[3]));
        if (n + kLanes >= columns) continue;
        store_four(n + kLanes, vzip2q_u16(rows[0], rows[2]), vzip2q_u16(rows[1], rows[3]));
      }
    }
  }

  void times(int64_t rows, const uint16_t* x, int64_t x_stride, int64_t depth, const uint16_t* panels, int64_t columns,
             bool accumulate, float* y, int64_t y_stride) {
    const auto blocks = Micro::rows_of({0, rows});
    for (int64_t t = 0; t < blocks.count; ++t) {
      const Rows some = blocks[t];
      for (int64_t n = 0; n < columns; n += kPanel) {
        Block<MmlaBfloat16> block{};
        block.x = x + some.begin * x_stride;
        block.x_row_stride = x_stride;
        block.rows = some.end - some.begin;
        block.panel = panels + n * depth;
        block.width = least(kPanel, columns - n);
        block.depth = depth;
        block.accumulate = accumulate;
        block.y = y + some.begin * y_stride + n;
        block.y_row_stride = y_stride;
        Lines none[kFetched] = {};
        micro_.run(block, none);
      }
    }
    micro_.finish();
  }

 private:
  static constexpr int kDeep = MmlaBfloat16::kStep;

  Micro micro_{0};
};

}  // namespace
