// float32 for tiles: numbers as sums of kParts numbers of bfloat16, each nearest to what the ones before leave. Three
// of them are the float32 itself: of 24 bits, 8 each.
//
//     parts   products of a part and a part     what PyTorch calls that float32_matmul_precision
//       3     0*2, 0*1, 1*1, 1*0, 2*0, 0*0      highest: as exact as a chain of float32 multiply-adds
//       2     0*1, 0*0, 1*0                     high
//       1     0*0                               medium
//
// Tiles take numbers below 2^-126 for zeros, and later parts of small numbers are such; the largest floats would round
// to infinity. So a row of operands and a column of weights are multiplied by a power of two, which brings the largest
// finite number near to 1, and sums by its inverse.
//
// An infinity has itself and zeros as parts, of which other products make NaN: MatrixTile::repair.
// Included by the instruction-set builds alone.
#pragma once
#include "../formats.h"

namespace {

template <int kParts>
struct Float32Parts {
  using Operand = uint16_t;
  using Weight = uint16_t;
  using Source = float;
  static constexpr int kStep = 2;
  static constexpr bool kInPlace = false;
  static constexpr bool kScaled = true;
  static constexpr int kPlanes = kParts;
  static constexpr bool kCoarse = false;
  static constexpr int32_t kOperandShift = 0;

  static Weight pack(Source v, int plane) {
    const bool finite = v - v == 0.0f;
    if (!finite && plane > 0) return 0;
    for (int i = 0; i < plane; ++i) v -= float_of((bits_of(v) + 0x8000) & 0xffff0000);
    const bool last = plane + 1 == kParts;
    return static_cast<Weight>((finite && !last ? bits_of(v) + 0x8000 : rounded_to_bfloat(bits_of(v))) >> 16);
  }

  static Vec finish(Vec sum, Vec scale, const Columns& columns, int row) {
    return sum * (scale * broadcast(columns.row_scale[row * columns.row_scale_stride]));
  }

  // One scale for a whole row, whatever the groups.
  static void prepare(const float* x, int64_t x_row_stride, Rows rows, const Operands& operands) {
    const int64_t plane = operands.row_stride, channels = operands.channels;
    for (int64_t r = rows.begin; r < rows.end; ++r) {
      const float* from = x + r * x_row_stride;
      Operand* to = static_cast<Operand*>(operands.data) + r * plane * kParts;
      Vec magnitude = broadcast(0.0f);
      for_each_vector(channels, [&](int64_t i, int lanes) {
        magnitude = larger_magnitude(magnitude, load_lanes(from + i, lanes));
      });
      float largest = largest_magnitude(magnitude);
      const bool finite = largest - largest == 0.0f;
      if (!finite) largest = largest_finite(from, channels);
      const float scale = near_power_of_two(largest), inverse = 1.0f / scale;
      for (int64_t g = 0; g < operands.groups; ++g) operands.scale[r * operands.groups + g] = scale;
      if (finite) {
        split(from, channels, inverse, to, plane);
      } else {
        for (int64_t i = 0; i < channels; ++i) {
          for (int p = 0; p < kParts; ++p) to[p * plane + i] = pack(from[i] * inverse, p);
        }
      }
    }
  }

 private:
  static float largest_finite(const float* values, int64_t count) {
    float largest = 0.0f;
    for (int64_t i = 0; i < count; ++i) {
      const float magnitude = __builtin_fabsf(values[i]);
      if (magnitude > largest && magnitude <= __FLT_MAX__) largest = magnitude;
    }
    return largest;
  }

  // Finite numbers, as `pack` does.
  static void split(const float* from, int64_t channels, float inverse, Operand* to, int64_t plane) {
    const Vec factor = broadcast(inverse);
    int64_t i = 0;
    for (; i + 2 * kLanes <= channels; i += 2 * kLanes) {
      Vec first = load(from + i) * factor, second = load(from + i + kLanes) * factor;
      for (int p = 0; p + 1 < kParts; ++p) {
        const Vec part = near_bfloat(first), other = near_bfloat(second);
        store_pairs(to + p * plane + i, bfloat_pairs(part, other));
        first = first - part;
        second = second - other;
      }
      store_pairs(to + (kParts - 1) * plane + i, bfloat_pairs(first, second));
    }
    for_each_vector(channels - i, [&](int64_t j, int lanes) {
      Vec rest = load_lanes(from + i + j, lanes) * factor;
      for (int p = 0; p + 1 < kParts; ++p) {
        const Vec part = near_bfloat(rest);
        store_first_pairs(to + p * plane + i + j, bfloat_pairs(part, broadcast(0.0f)), lanes);
        rest = rest - part;
      }
      store_first_pairs(to + (kParts - 1) * plane + i + j, bfloat_pairs(rest, broadcast(0.0f)), lanes);
    });
  }
};

}  // namespace
