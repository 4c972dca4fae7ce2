// y = activation(x * weight^T + bias), group by group: a block-diagonal matrix product over channels-last rows.
// Included by the instruction-set builds alone.
//
//            K                   N                          N
//      +-----------+       +---+---+---+             +---+---+---+
//  M   |  tile     |   K   | p | a | n |  packed     | t | i | l |   tile: kTileRows x 3 vectors of sums in registers
//      +-----------+       | e | l | s |  panels     +---+---+---+
//      |           |       +---+---+---+             |           |
//
// Loops, from the outside: blocks of K and of N so that the weights of one block stay in the second-level cache; tiles
// of rows, whose K activations stay in the first-level cache; panels of N, whose weights stream past in the order they
// are stored; K. Sums over K run in one fixed order that depends on K alone, so a token's result has the same bits in
// any tile, block, batch and thread.
#pragma once
#include "activations.h"
#include "kernel_table.h"

namespace {

using squeezebert::Block;
using squeezebert::GroupedPointwiseConv;

constexpr int kPanelVectors = 3;
constexpr int64_t kPanelColumns = kPanelVectors * kLanes;
constexpr int64_t kBlockDepth = 384;               // of K: a tile's activations fill a quarter of the first-level cache
constexpr int64_t kBlockWeights = 512 * 1024 / 4;  // elements: less than half of a 1.25 MB second-level cache

inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

inline int64_t packed_columns(int64_t out_per_group) {
  return divide_up(out_per_group, static_cast<int64_t>(kLanes)) * kLanes;
}

inline void pack_grouped_pointwise_conv(const float* weight, int64_t groups, int64_t out_per_group,
                                        int64_t in_per_group, float* packed) {
  for (int64_t group = 0; group < groups; ++group, weight += out_per_group * in_per_group) {
    for (int64_t column = 0; column < out_per_group; column += kPanelColumns) {
      const int64_t real = least(kPanelColumns, out_per_group - column);
      const int64_t width = packed_columns(real);
      for (int64_t k = 0; k < in_per_group; ++k, packed += width) {
        for (int64_t j = 0; j < width; ++j) packed[j] = j < real ? weight[(column + j) * in_per_group + k] : 0.0f;
      }
    }
  }
}

// One tile: kRows rows x kVectors vectors, over `depth` steps of K, added to what y holds when `accumulate`, plus the
// bias unless it is null. Every block of K is summed on its own and the bias comes last: small sums stay small, which
// is what keeps the rounding error that of PyTorch's own products. The last vector has `last_lanes` real columns.
template <int kRows, int kVectors>
__attribute__((noinline)) void tile_f32(const float* x, int64_t x_row_stride, const float* weight, int64_t depth,
                                        const float* bias, bool accumulate, float* y, int64_t y_row_stride,
                                        int last_lanes) {
  Vec sum[kRows][kVectors];
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int j = 0; j < kVectors; ++j) sum[r][j] = broadcast(0.0f);
  }

  for (int64_t k = 0; k < depth; ++k, weight += kVectors * kLanes) {
    Vec w[kVectors];
#pragma GCC unroll 4
    for (int j = 0; j < kVectors; ++j) w[j] = load(weight + j * kLanes);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      const float activation = x[r * x_row_stride + k];
#pragma GCC unroll 4
      for (int j = 0; j < kVectors; ++j) sum[r][j] = multiply_add(activation, w[j], sum[r][j]);
    }
  }

#pragma GCC unroll 4
  for (int j = 0; j < kVectors; ++j) {
    const bool whole = j + 1 < kVectors || last_lanes == kLanes;
    const auto read = [&](const float* p) { return whole ? load(p) : load_first(p, last_lanes); };
    const Vec offset = bias ? read(bias + j * kLanes) : broadcast(0.0f);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      float* out = y + r * y_row_stride + j * kLanes;
      const Vec total = (accumulate ? sum[r][j] + read(out) : sum[r][j]) + offset;
      if (whole) {
        store(out, total);
      } else {
        store_first(out, total, last_lanes);
      }
    }
  }
}

using Tile = void (*)(const float*, int64_t, const float*, int64_t, const float*, bool, float*, int64_t, int);

template <int kVectors>
inline Tile tile_of(int64_t rows) {
  static_assert(kTileRows == 4 || kTileRows == 8, "the table below has one entry a row count");
  if constexpr (kTileRows == 8) {
    constexpr Tile tiles[] = {tile_f32<1, kVectors>, tile_f32<2, kVectors>, tile_f32<3, kVectors>,
                              tile_f32<4, kVectors>, tile_f32<5, kVectors>, tile_f32<6, kVectors>,
                              tile_f32<7, kVectors>, tile_f32<8, kVectors>};
    return tiles[rows - 1];
  } else {
    constexpr Tile tiles[] = {tile_f32<1, kVectors>, tile_f32<2, kVectors>, tile_f32<3, kVectors>,
                              tile_f32<4, kVectors>};
    return tiles[rows - 1];
  }
}

inline Tile tile_of(int64_t rows, int64_t vectors) {
  return vectors == 3 ? tile_of<3>(rows) : vectors == 2 ? tile_of<2>(rows) : tile_of<1>(rows);
}

template <Vec (*function)(Vec)>
inline void apply(float* y, int64_t row_stride, int64_t rows, int64_t columns) {
  for (int64_t r = 0; r < rows; ++r, y += row_stride) {
    int64_t j = 0;
    for (; j + kLanes <= columns; j += kLanes) store(y + j, function(load(y + j)));
    if (j < columns) {
      const int lanes = static_cast<int>(columns - j);
      store_first(y + j, function(load_first(y + j, lanes)), lanes);
    }
  }
}

inline void activate(Activation activation, float* y, int64_t row_stride, int64_t rows, int64_t columns) {
  switch (activation) {
    case Activation::none:
      return;
    case Activation::gelu:
      return apply<gelu>(y, row_stride, rows, columns);
    case Activation::gelu_tanh:
      return apply<gelu_tanh>(y, row_stride, rows, columns);
    case Activation::relu:
      return apply<relu>(y, row_stride, rows, columns);
    case Activation::silu:
      return apply<silu>(y, row_stride, rows, columns);
  }
}

inline void grouped_pointwise_conv(const GroupedPointwiseConv& conv, const Block& block) {
  const int64_t K = conv.in_per_group, N = conv.out_per_group;
  const float* weight = conv.packed_weight + block.group * K * packed_columns(N);
  const float* bias = conv.bias ? conv.bias + block.group * N : nullptr;
  const float* x = conv.x + block.group * K;
  float* y = conv.y + block.group * N;

  const int64_t depth_blocks = K > 0 ? divide_up(K, kBlockDepth) : 1;  // a product over no channels is the bias
  const int64_t depth = divide_up(K, depth_blocks);
  const int64_t columns = divide_up(divide_up(kBlockWeights, depth > 0 ? depth : 1), kPanelColumns) * kPanelColumns;
  const int64_t rows = block.token_end - block.token_begin;
  const int64_t tiles = divide_up(rows, static_cast<int64_t>(kTileRows));

  for (int64_t n0 = block.column_begin; n0 < block.column_end; n0 += columns) {
    const int64_t n1 = least(n0 + columns, block.column_end);
    for (int64_t d = 0; d < depth_blocks; ++d) {
      const int64_t k0 = d * depth, k_steps = least(depth, K - k0);
      const bool last = d + 1 == depth_blocks;
      for (int64_t t = 0; t < tiles; ++t) {
        // Rows are dealt out evenly: 9 rows are 5 and 4, not 8 and 1, which would leave the multiply-add units waiting.
        const int64_t t0 = block.token_begin + rows * t / tiles, t1 = block.token_begin + rows * (t + 1) / tiles;
        for (int64_t n = n0; n < n1; n += kPanelColumns) {
          const int64_t width = least(kPanelColumns, N - n);
          const int64_t vectors = divide_up(width, static_cast<int64_t>(kLanes));
          float* out = y + t0 * conv.y_row_stride + n;
          tile_of(t1 - t0, vectors)(x + t0 * conv.x_row_stride + k0, conv.x_row_stride,
                                    weight + n * K + k0 * vectors * kLanes, k_steps, last && bias ? bias + n : nullptr,
                                    d > 0, out, conv.y_row_stride, static_cast<int>(width - (vectors - 1) * kLanes));
          if (last) activate(conv.activation, out, conv.y_row_stride, t1 - t0, width);
        }
      }
    }
  }
}

}  // namespace
