// One float32 lane in plain C++: the fallback for every CPU, and what the wider builds are compared with.
#pragma once
#include <cmath>
#include <cstdint>

namespace {

struct Vec {
  float value;
};
constexpr int kLanes = 1;
constexpr int kTileRows = 4, kPanelVectors = 3;

inline Vec broadcast(float value) { return {value}; }
inline Vec load(const float* p) { return {*p}; }
inline void store(float* p, Vec v) { *p = v.value; }
// A bfloat16 number, and one rounded to it: to nearest, ties to even, a NaN stays one.
inline Vec load(const uint16_t* p) {
  const uint32_t bits = static_cast<uint32_t>(*p) << 16;
  Vec v;
  __builtin_memcpy(&v.value, &bits, sizeof bits);
  return v;
}
inline void store(uint16_t* p, Vec v) {
  uint32_t bits;
  __builtin_memcpy(&bits, &v.value, sizeof bits);
  *p = static_cast<uint16_t>((v.value == v.value ? bits + 0x7fff + ((bits >> 16) & 1) : bits | 0x400000) >> 16);
}
// One lane is never part of a vector, so these serve whole vectors alone.
inline Vec load_first(const float* p, int) { return {*p}; }
inline void store_first(float* p, Vec v, int) { *p = v.value; }
inline Vec operator+(Vec a, Vec b) { return {a.value + b.value}; }
inline Vec operator-(Vec a, Vec b) { return {a.value - b.value}; }
inline Vec operator*(Vec a, Vec b) { return {a.value * b.value}; }
inline Vec operator/(Vec a, Vec b) { return {a.value / b.value}; }
inline Vec multiply_add(Vec a, Vec b, Vec c) { return {a.value * b.value + c.value}; }
inline Vec multiply_add(float a, Vec b, Vec c) { return {a * b.value + c.value}; }
inline Vec minimum(Vec a, Vec b) { return {a.value < b.value ? a.value : b.value}; }
inline Vec maximum(Vec a, Vec b) { return {a.value > b.value ? a.value : b.value}; }
inline Vec square_root(Vec v) { return {::sqrtf(v.value)}; }
inline Vec absolute(Vec v) { return {::fabsf(v.value)}; }
inline Vec zip_first(Vec a, Vec) { return a; }  // a block of one needs no transposition, so these are never run
inline Vec zip_second(Vec, Vec b) { return b; }
inline float sum_of_lanes(Vec v) { return v.value; }
inline float largest_lane(Vec v) { return v.value; }
// v where x is not 0 or less, else 0
inline Vec where_positive(Vec x, Vec v) { return {x.value <= 0.0f ? 0.0f : v.value}; }
// The larger magnitudes. Infinity is above every number and NaN above that, as bits without a sign compare.
inline Vec larger_magnitude(Vec a, Vec b) {
  uint32_t first, second;
  __builtin_memcpy(&first, &a.value, sizeof first);
  __builtin_memcpy(&second, &b.value, sizeof second);
  second &= 0x7fffffff;
  first = first > second ? first : second;
  __builtin_memcpy(&a.value, &first, sizeof first);
  return a;
}
inline float largest_magnitude(Vec v) { return v.value; }
inline Vec round_nearest(Vec v) { return {::nearbyintf(v.value)}; }
inline Vec scale_by_power_of_two(Vec v, Vec n) { return {::ldexpf(v.value, static_cast<int>(n.value))}; }

// ---- int8: sums of products in int32

struct IntVec {
  int32_t value;
};
using IntOperand = int16_t;
constexpr int kIntOperandShift = 0;
constexpr int kIntStep = 1;
constexpr int kIntTileRows = kTileRows;
inline IntVec load(const int32_t* p) { return {*p}; }
inline Vec load_ints(const int8_t* p) { return {static_cast<float>(*p)}; }
inline Vec to_float(IntVec v) { return {static_cast<float>(v.value)}; }
inline IntVec to_int(Vec v) { return {static_cast<int32_t>(::lrintf(v.value))}; }
inline IntVec load_int_weights(const int8_t* p) { return {*p}; }
inline IntVec multiply_add(const IntOperand* one, IntVec weight, IntVec sum) {
  return {sum.value + *one * weight.value};
}
inline void store(IntOperand* p, IntVec v) { *p = static_cast<IntOperand>(v.value); }
inline void store_first(IntOperand* p, IntVec v, int) { *p = static_cast<IntOperand>(v.value); }

// ---- random numbers: lanes are words, unsigned numbers of 32 bits

inline IntVec words(uint32_t value) { return {static_cast<int32_t>(value)}; }
inline IntVec words_from(uint32_t first) { return words(first); }
// The halves of the 64-bit product.
inline void multiply_words(IntVec v, uint32_t factor, IntVec& high, IntVec& low) {
  const uint64_t product = static_cast<uint64_t>(factor) * static_cast<uint32_t>(v.value);
  high = words(static_cast<uint32_t>(product >> 32));
  low = words(static_cast<uint32_t>(product));
}
inline IntVec exclusive_or(IntVec a, IntVec b, IntVec c) { return {a.value ^ b.value ^ c.value}; }
// value where the word is `least` or more, else 0
inline Vec where_at_least(IntVec v, uint32_t least, Vec value) {
  return {static_cast<uint32_t>(v.value) < least ? 0.0f : value.value};
}

}  // namespace

#include "widened_bfloat.h"
