// bfloat16 for matrix units: operands and weights rounded, products in float32. Included by the builds that have such
// units alone.
#pragma once
#include "../formats.h"

namespace {

// Two vectors of numbers, rounded, of which `count` are there; the others are 0.
inline Vec bfloat_step(const float* from, int64_t count) {
  const Vec first = load_lanes(from, static_cast<int>(least(kLanes, count)));
  const Vec second =
      count > kLanes ? load_lanes(from + kLanes, static_cast<int>(least(kLanes, count - kLanes))) : broadcast(0.0f);
  return bfloat_pairs(first, second);
}

// The same of numbers that are bfloat16 already.
inline Vec bfloat_step(const uint16_t* from, int64_t count) {
  return count >= 2 * kLanes ? load_pairs(from) : load_first_pairs(from, static_cast<int>(count));
}

struct MatrixBfloat16 {
  using Operand = uint16_t;
  using Weight = uint16_t;
  using Source = float;
  static constexpr int kStep = 2;
  static constexpr bool kInPlace = false;
  static constexpr bool kScaled = false;
  static constexpr int kPlanes = 1;
  static constexpr bool kCoarse = true;
  static constexpr int32_t kOperandShift = 0;

  static void prepare(const float* x, int64_t x_row_stride, Rows rows, const Operands& operands) {
    for (int64_t r = rows.begin; r < rows.end; ++r) {
      const float* from = x + r * x_row_stride;
      Operand* to = static_cast<Operand*>(operands.data) + r * operands.row_stride;
      int64_t i = 0;
      for (; i + 2 * kLanes <= operands.channels; i += 2 * kLanes) {
        store_pairs(to + i, bfloat_pairs(load(from + i), load(from + i + kLanes)));
      }
      for_each_vector(operands.channels - i, [&](int64_t j, int lanes) {
        store_first_pairs(to + i + j, bfloat_pairs(load_lanes(from + i + j, lanes), broadcast(0.0f)), lanes);
      });
    }
  }
};

}  // namespace
