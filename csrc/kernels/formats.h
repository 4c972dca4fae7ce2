// The precisions of products: what an operand and a weight are, how one step along K multiplies them, how rows become
// operands. Included by the instruction-set builds alone.
#pragma once
#include "kernel_table.h"
#include "vectors.h"

namespace {

using squeezebert::Operands;
using squeezebert::Rows;

// The arrays by column of a segment, at a tile's first column, and the scales by row at its first row.
struct Columns {
  const float* bias;
  const float* scale;
  const int32_t* start;
  const float* row_scale;
  int64_t row_scale_stride;
};

// What a precision is to the kernels:
//
//     kStep              values along K that one word of a column's weights has
//     kTurns             multiply-adds that take them, each with weights of its own
//     kTileRows, kPanelVectors  a tile's rows and vectors of columns, whose sums stay in registers
//     kInPlace           rows are operands as they are
//     kScaled            operands and weights have scales
//     kPlanes            parts that an operand and a weight come in; planes of a row follow each other row_stride apart
//     kCoarse            results are rounded right after, so an activation need not be of float32's accuracy
//     kOperandShift      what is added to an operand, and is to be taken off the sums again
template <class Format>
constexpr int64_t operand_bytes() {
  return Format::kInPlace ? 0 : static_cast<int64_t>(sizeof(typename Format::Operand)) * Format::kPlanes;
}

struct Float32 {
  using Operand = float;
  using Weight = float;
  using Source = float;
  using Weights = Vec;
  using Sum = Vec;
  static constexpr int kStep = 1, kTurns = 1;
  static constexpr int kTileRows = ::kTileRows, kPanelVectors = ::kPanelVectors;
  static constexpr bool kInPlace = true;
  static constexpr bool kScaled = false;
  static constexpr int kPlanes = 1;
  static constexpr bool kCoarse = false;
  static constexpr int32_t kOperandShift = 0;

  static Weights load_weights(const Weight* p, int) { return load(p); }
  static Sum multiply_add(const Operand* x, Weights w, Sum sum, int) { return ::multiply_add(*x, w, sum); }
  static Sum start(const Columns&, int) { return broadcast(0.0f); }
  static Vec scale_of(const Columns&, int) { return broadcast(0.0f); }
  static Vec finish(Sum sum, Vec, const Columns&, int) { return sum; }
  static Weight pack(Source v) { return v; }
  static void prepare(const float*, int64_t, Rows, const Operands&) {}
};

inline uint32_t bits_of(float v) {
  uint32_t bits;
  __builtin_memcpy(&bits, &v, sizeof bits);
  return bits;
}
inline float float_of(uint32_t bits) {
  float v;
  __builtin_memcpy(&v, &bits, sizeof v);
  return v;
}
// The power of two at or below v, 2^-60 to 2^60, so that it, its inverse and products of two have one exactly.
inline float near_power_of_two(float v) {
  const uint32_t bits = bits_of(v) & 0x7f800000, least = 67 << 23, most = 187 << 23;
  return float_of(bits < least ? least : bits > most ? most : bits);
}
// To nearest, ties to even; a NaN stays one.
inline uint32_t rounded_to_bfloat(uint32_t bits) {
  const uint32_t rounded = bits + 0x7fff + ((bits >> 16) & 1);
  return ((bits & 0x7fffffff) > 0x7f800000 ? bits | 0x400000 : rounded) & 0xffff0000;
}

struct Bfloat16 {
  using Operand = BfloatOperand;
  using Weight = uint16_t;
  using Source = float;
  using Weights = BfloatWeights;
  using Sum = Vec;
  static constexpr int kStep = kBfloatStep, kTurns = kBfloatTurns;
  static constexpr int kTileRows = kBfloatTileRows, kPanelVectors = kBfloatPanelVectors;
  static constexpr bool kInPlace = false;
  static constexpr bool kScaled = false;
  static constexpr int kPlanes = 1;
  static constexpr bool kCoarse = false;
  static constexpr int32_t kOperandShift = 0;

  static Weights load_weights(const Weight* p, int turn) { return load_bfloat_weights(p, turn); }
  static Sum multiply_add(const Operand* x, Weights w, Sum sum, int turn) {
    return multiply_add_bfloat(x, w, sum, turn);
  }
  static Sum start(const Columns&, int) { return broadcast(0.0f); }
  static Vec scale_of(const Columns&, int) { return broadcast(0.0f); }
  static Vec finish(Sum sum, Vec, const Columns&, int) { return sum; }
  static Weight pack(Source v) { return static_cast<Weight>(rounded_to_bfloat(bits_of(v)) >> 16); }

  static void store_operand(uint16_t* p, uint32_t bits) { *p = static_cast<uint16_t>(bits >> 16); }
  static void store_operand(float* p, uint32_t bits) { *p = float_of(bits); }
  static void prepare(const float* x, int64_t x_row_stride, Rows rows, const Operands& operands) {
    for (int64_t r = rows.begin; r < rows.end; ++r) {
      const float* from = x + r * x_row_stride;
      Operand* to = static_cast<Operand*>(operands.data) + r * operands.row_stride;
      for (int64_t i = 0; i < operands.channels; ++i) store_operand(to + i, rounded_to_bfloat(bits_of(from[i])));
    }
  }
};

// How `size` values become int8 and back: int = round(value * inverse), value = int * scale.
struct Int8Scale {
  float inverse, scale;
};
inline Int8Scale int8_scale(const float* values, int64_t size) {
  Vec magnitude = broadcast(0.0f);
  for_each_vector(
      size, [&](int64_t i, int lanes) { magnitude = larger_magnitude(magnitude, load_lanes(values + i, lanes)); });
  const float bound = largest_magnitude(magnitude);
  // The quotient of a tiny bound would be infinite. The scale is NaN where an infinity or a NaN is among the values.
  return {bound > 1e-36f ? 127.0f / bound : 0.0f, bound / 127.0f + bound * 0.0f};
}

// Symmetric, dynamic: value = int * scale, |int| <= 127, one scale per row and group. The ints, and so the sums, are
// the same on every build: each operation here rounds as IEEE says.
struct Int8 {
  using Operand = IntOperand;
  using Weight = int8_t;
  using Source = int8_t;
  using Weights = decltype(load_int_weights(nullptr));
  using Sum = IntVec;
  static constexpr int kStep = kIntStep, kTurns = 1;
  static constexpr int kTileRows = kIntTileRows, kPanelVectors = ::kPanelVectors;
  static constexpr bool kInPlace = false;
  static constexpr bool kScaled = true;
  static constexpr int kPlanes = 1;
  static constexpr bool kCoarse = true;
  static constexpr int32_t kOperandShift = kIntOperandShift;

  static Weights load_weights(const Weight* p, int) { return load_int_weights(p); }
  static Sum multiply_add(const Operand* x, Weights w, Sum sum, int) { return ::multiply_add(x, w, sum); }
  static Sum start(const Columns& columns, int column) { return load(columns.start + column); }
  static Vec scale_of(const Columns& columns, int column) { return load(columns.scale + column); }
  static Vec finish(Sum sum, Vec scale, const Columns& columns, int row) {
    return to_float(sum) * scale * broadcast(columns.row_scale[row * columns.row_scale_stride]);
  }
  static Weight pack(Source v) { return v; }

  static void prepare(const float* x, int64_t x_row_stride, Rows rows, const Operands& operands) {
    const int64_t size = operands.channels / operands.groups;
    for (int64_t r = rows.begin; r < rows.end; ++r) {
      const float* from = x + r * x_row_stride;
      Operand* to = static_cast<Operand*>(operands.data) + r * operands.row_stride;
      float* scales = operands.scale + r * operands.groups;
      for (int64_t g = 0; g < operands.groups; ++g, from += size, to += size) {
        const Int8Scale scale = int8_scale(from, size);
        scales[g] = scale.scale;
        const Vec inverse = broadcast(scale.inverse);
        int64_t i = 0;
        for (; i + kLanes <= size; i += kLanes) store(to + i, to_int(load(from + i) * inverse));
        const int rest = static_cast<int>(size - i);
        if (rest > 0) store_first(to + i, to_int(load_first(from + i, rest) * inverse), rest);
      }
    }
  }
};

}  // namespace
