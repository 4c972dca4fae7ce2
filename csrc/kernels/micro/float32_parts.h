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

// Two vectors of numbers: of each part, pairs as they are stored.
template <int kParts>
struct Parts {
  Vec pairs[kParts];
};

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

  // Of numbers times their inverse scale.
  static Parts<kParts> parts_of(Vec first, Vec second) {
    if (__builtin_expect(!all_finite(first) || !all_finite(second), 0)) return parts_one_by_one(first, second);
    Parts<kParts> parts;
    for (int p = 0; p + 1 < kParts; ++p) {
      const Vec part = near_bfloat(first), other = near_bfloat(second);
      parts.pairs[p] = bfloat_pairs(part, other);
      first = first - part;
      second = second - other;
    }
    parts.pairs[kParts - 1] = bfloat_pairs(first, second);
    return parts;
  }

  // The scale of `count` numbers, by the largest magnitude among those that are finite. `number(i)` is asked for only
  // where `largest`, that among all, isn't.
  template <class Number>
  static float scale_of(float largest, int64_t count, Number number) {
    if (__builtin_expect(largest - largest != 0.0f, 0)) {
      largest = 0.0f;
      for (int64_t i = 0; i < count; ++i) {
        const float magnitude = __builtin_fabsf(number(i));
        if (magnitude > largest && magnitude <= __FLT_MAX__) largest = magnitude;
      }
    }
    return near_power_of_two(largest);
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
      const float scale = scale_of(largest_magnitude(magnitude), channels, [from](int64_t i) { return from[i]; });
      for (int64_t g = 0; g < operands.groups; ++g) operands.scale[r * operands.groups + g] = scale;
      const Vec inverse = broadcast(1.0f / scale);
      int64_t i = 0;
      for (; i + 2 * kLanes <= channels; i += 2 * kLanes) {
        const Parts<kParts> parts = parts_of(load(from + i) * inverse, load(from + i + kLanes) * inverse);
        for (int p = 0; p < kParts; ++p) store_pairs(to + p * plane + i, parts.pairs[p]);
      }
      for_each_vector(channels - i, [&](int64_t j, int lanes) {
        const Parts<kParts> parts = parts_of(load_lanes(from + i + j, lanes) * inverse, broadcast(0.0f));
        for (int p = 0; p < kParts; ++p) store_first_pairs(to + p * plane + i + j, parts.pairs[p], lanes);
      });
    }
  }

 private:
  [[gnu::noinline]] static Parts<kParts> parts_one_by_one(Vec first, Vec second) {
    float numbers[2 * kLanes];
    store(numbers, first);
    store(numbers + kLanes, second);
    Parts<kParts> parts;
    for (int p = 0; p < kParts; ++p) {
      Operand plane[2 * kLanes];
      for (int i = 0; i < 2 * kLanes; ++i) plane[i] = part_of(numbers[i], p);
      parts.pairs[p] = load_pairs(plane);
    }
    return parts;
  }

  static Operand part_of(float v, int plane) {
    const bool finite = v - v == 0.0f;
    if (!finite && plane > 0) return 0;
    for (int i = 0; i < plane; ++i) v -= float_of((bits_of(v) + 0x8000) & 0xffff0000);
    const bool last = plane + 1 == kParts;
    return static_cast<Operand>((finite && !last ? bits_of(v) + 0x8000 : rounded_to_bfloat(bits_of(v))) >> 16);
  }
};

}  // namespace
