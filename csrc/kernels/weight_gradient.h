// y (+)= grad^T x: the gradient of a product's weights, with the sums of grad's columns, the bias's.
// Included by the instruction-set builds alone.
//
// Rows are the depth of this product. Of kGradientRows of them at a time, grad is transposed, x is packed into panels,
// and the product is that of the forward. Both copies stay in the second-level cache, a panel and a tile's operands in
// the first.
#pragma once
#include "panels.h"
#include "product.h"

namespace {

using squeezebert::WeightGradient;

constexpr int64_t kGradientRows = 256;  // whole vectors of every build

inline int64_t weight_gradient_scratch(int64_t out, int64_t in) {
  return (out * (kGradientRows + kLanes) + padded_columns(in) * kGradientRows) * static_cast<int64_t>(sizeof(float));
}

// The lines of some rows, spread over the tiles of a product.
inline Lines rows_ahead(const float* from, int64_t row_stride, int64_t first, int64_t rows, int64_t columns,
                        int64_t tiles) {
  constexpr int64_t kFloatBytes = 4;
  Lines lines = lines_of(from + first * row_stride, rows, columns * kFloatBytes, row_stride * kFloatBytes);
  lines.most = divide_up(lines.count, tiles);
  return lines;
}

inline void weight_gradient(const WeightGradient& g, char* scratch) {
  // One vector more than the rows: a power of two would put all channels of a block into the same few cache lines.
  const int64_t stride = round_up(least(kGradientRows, g.rows), kLanes) + kLanes;
  float* grads = reinterpret_cast<float*>(scratch);  // [out, stride]
  float* panels = grads + g.out * stride;
  const int64_t tiles = divide_up(g.out, kTileRows) * divide_up(g.in, kPanelColumns);
  bool accumulate = g.accumulate;
  int64_t first = 0;
  do {
    const int64_t count = least(kGradientRows, g.rows - first);
    transpose(g.grad + first * g.grad_row_stride, g.grad_row_stride, count, g.out, grads, stride);
    pack_rows(g.x + first * g.x_row_stride, g.x_row_stride, count, g.in, panels);
    const Segment segment{0, count, 0, g.in, accumulate, panels, nullptr, nullptr, nullptr};
    const int64_t following = least(kGradientRows, g.rows - first - count);
    VectorTile<Float32> micro(g.out);
    run_segment(micro, {grads, stride, nullptr, 1, count}, segment, Activation::none, {g.y, g.y_row_stride}, {0, g.out},
                false, false,
                {rows_ahead(g.grad, g.grad_row_stride, first + count, following, g.out, tiles),
                 rows_ahead(g.x, g.x_row_stride, first + count, following, g.in, tiles)});
    for (int64_t o = 0; g.bias && o < g.out; ++o) {
      Vec sum = broadcast(0.0f);
      for (int64_t r = 0; r < count; r += kLanes) sum = sum + load(grads + o * stride + r);
      g.bias[o] = (accumulate ? g.bias[o] : 0.0f) + sum_of_lanes(sum);
    }
    accumulate = true;
    first += count;
  } while (first < g.rows);
}

}  // namespace
