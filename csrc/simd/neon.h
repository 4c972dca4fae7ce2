// 4 float32 lanes: AArch64 Advanced SIMD, which every AArch64 CPU has.
#pragma once
#include <arm_neon.h>

#include <cstdint>

namespace {

using Vec = float32x4_t;
constexpr int kLanes = 4;
// 8 x 3 accumulators, 3 weight vectors and a scalar: 28 of 32 registers.
constexpr int kTileRows = 8, kPanelVectors = 3;

inline Vec broadcast(float value) { return vdupq_n_f32(value); }
inline Vec load(const float* p) { return vld1q_f32(p); }
inline void store(float* p, Vec v) { vst1q_f32(p, v); }
inline Vec load_first(const float* p, int count) {
  float lanes[kLanes] = {};
  for (int i = 0; i < count; ++i) lanes[i] = p[i];
  return vld1q_f32(lanes);
}
inline void store_first(float* p, Vec v, int count) {
  float lanes[kLanes];
  vst1q_f32(lanes, v);
  for (int i = 0; i < count; ++i) p[i] = lanes[i];
}
// A vector of bfloat16 numbers, and one rounded to them: to nearest, ties to even, a NaN stays one.
inline Vec load(const uint16_t* p) { return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p), 16)); }
inline void store(uint16_t* p, Vec v) {
  const uint32x4_t bits = vreinterpretq_u32_f32(v), half = vshrq_n_u32(bits, 16);
  const uint32x4_t odd = vandq_u32(half, vdupq_n_u32(1));
  const uint32x4_t up = vaddq_u32(vaddq_u32(bits, odd), vdupq_n_u32(0x7fff));
  const uint32x4_t quiet = vorrq_u32(half, vdupq_n_u32(0x40));
  vst1_u16(p, vmovn_u32(vbslq_u32(vceqq_f32(v, v), vshrq_n_u32(up, 16), quiet)));
}
inline Vec multiply_add(Vec a, Vec b, Vec c) { return vfmaq_f32(c, a, b); }
inline Vec multiply_add(float a, Vec b, Vec c) { return vfmaq_n_f32(c, b, a); }
inline Vec minimum(Vec a, Vec b) { return vminq_f32(a, b); }
inline Vec maximum(Vec a, Vec b) { return vmaxq_f32(a, b); }
inline Vec square_root(Vec v) { return vsqrtq_f32(v); }
inline Vec absolute(Vec v) { return vabsq_f32(v); }
// lanes of a and b by turns, of their first halves and of their second halves
inline Vec zip_first(Vec a, Vec b) { return vzip1q_f32(a, b); }
inline Vec zip_second(Vec a, Vec b) { return vzip2q_f32(a, b); }
// Over all lanes, always in the same order. Of NaNs the larger lane may be any.
inline float sum_of_lanes(Vec v) { return vaddvq_f32(v); }
inline float largest_lane(Vec v) { return vmaxvq_f32(v); }
// v where x is not 0 or less, else 0
inline Vec where_positive(Vec x, Vec v) {
  return vreinterpretq_f32_u32(vbicq_u32(vreinterpretq_u32_f32(v), vcleq_f32(x, vdupq_n_f32(0.0f))));
}
// The larger magnitudes. Infinity is above every number and NaN above that, as bits without a sign compare.
inline Vec larger_magnitude(Vec a, Vec b) {
  return vreinterpretq_f32_u32(vmaxq_u32(vreinterpretq_u32_f32(a), vreinterpretq_u32_f32(vabsq_f32(b))));
}
inline float largest_magnitude(Vec v) {
  const uint32_t bits = vmaxvq_u32(vreinterpretq_u32_f32(v));
  float largest;
  __builtin_memcpy(&largest, &bits, sizeof largest);
  return largest;
}
inline Vec round_nearest(Vec v) { return vrndnq_f32(v); }
// v * 2^n for whole n in [-126, 128]; 2^128 is infinity
inline Vec scale_by_power_of_two(Vec v, Vec n) {
  // unsigned: where n is infinite, the largest int comes in, and the product is NaN
  const uint32x4_t exponent = vaddq_u32(vreinterpretq_u32_s32(vcvtq_s32_f32(n)), vdupq_n_u32(127));
  return vmulq_f32(v, vreinterpretq_f32_u32(vshlq_n_u32(exponent, 23)));
}
// The same where x is not below `least`, else 0.
inline Vec scale_unless_below(Vec x, float least, Vec v, Vec n) {
  const uint32x4_t scaled = vreinterpretq_u32_f32(scale_by_power_of_two(v, n));
  return vreinterpretq_f32_u32(vbicq_u32(scaled, vcltq_f32(x, vdupq_n_f32(least))));
}

// ---- int8: sums of products in int32

using IntVec = int32x4_t;
constexpr int kIntTileRows = kTileRows;
inline IntVec load(const int32_t* p) { return vld1q_s32(p); }
inline Vec load_ints(const int8_t* p) {
  int32_t bytes;
  __builtin_memcpy(&bytes, p, sizeof bytes);
  return vcvtq_f32_s32(vmovl_s16(vget_low_s16(vmovl_s8(vreinterpret_s8_s32(vdup_n_s32(bytes))))));
}
inline Vec to_float(IntVec v) { return vcvtq_f32_s32(v); }
inline IntVec to_int(Vec v) { return vcvtnq_s32_f32(v); }
constexpr int kIntOperandShift = 0;

using IntOperand = int8_t;
constexpr int kIntStep = 4;
inline int8x16_t load_int_weights(const int8_t* p) { return vld1q_s8(p); }
// Without sdot what formats.h asks for alone: products have a micro-kernel of their own (pair_tile.h).
inline IntVec multiply_add(const IntOperand* four, int8x16_t weights, IntVec sum) {
  int32_t bytes;
  __builtin_memcpy(&bytes, four, sizeof bytes);
  const int8x16_t in_all = vreinterpretq_s8_s32(vdupq_n_s32(bytes));
#ifdef __ARM_FEATURE_DOTPROD
  return vdotq_s32(sum, weights, in_all);
#else
  const int32x4_t first = vpaddlq_s16(vmull_s8(vget_low_s8(weights), vget_low_s8(in_all)));
  return vaddq_s32(sum, vpaddq_s32(first, vpaddlq_s16(vmull_high_s8(weights, in_all))));
#endif
}
inline void store(IntOperand* p, IntVec v) {
  const int16x4_t halves = vmovn_s32(v);
  const int32_t bytes = vget_lane_s32(vreinterpret_s32_s8(vmovn_s16(vcombine_s16(halves, halves))), 0);
  __builtin_memcpy(p, &bytes, sizeof bytes);
}
inline void store_first(IntOperand* p, IntVec v, int count) {
  int32_t lanes[kLanes];
  vst1q_s32(lanes, v);
  for (int i = 0; i < count; ++i) p[i] = static_cast<IntOperand>(lanes[i]);
}

// ---- operands whose rows lie side by side: bytes are steps of several rows

inline uint8x16_t load_bytes(const char* p) { return vld1q_u8(reinterpret_cast<const uint8_t*>(p)); }
inline void store_bytes(char* p, uint8x16_t v) { vst1q_u8(reinterpret_cast<uint8_t*>(p), v); }
// The first halves of a and b side by side, and the second halves.
inline uint8x16_t first_halves(uint8x16_t a, uint8x16_t b) {
  return vreinterpretq_u8_u64(vzip1q_u64(vreinterpretq_u64_u8(a), vreinterpretq_u64_u8(b)));
}
inline uint8x16_t second_halves(uint8x16_t a, uint8x16_t b) {
  return vreinterpretq_u8_u64(vzip2q_u64(vreinterpretq_u64_u8(a), vreinterpretq_u64_u8(b)));
}
inline uint8x16_t bytes_of(Vec v) { return vreinterpretq_u8_f32(v); }
inline Vec floats_of(uint8x16_t v) { return vreinterpretq_f32_u8(v); }

inline Vec first_halves(Vec a, Vec b) { return floats_of(first_halves(bytes_of(a), bytes_of(b))); }
inline Vec second_halves(Vec a, Vec b) { return floats_of(second_halves(bytes_of(a), bytes_of(b))); }
inline IntVec first_halves(IntVec a, IntVec b) {
  return vreinterpretq_s32_u8(first_halves(vreinterpretq_u8_s32(a), vreinterpretq_u8_s32(b)));
}
inline IntVec second_halves(IntVec a, IntVec b) {
  return vreinterpretq_s32_u8(second_halves(vreinterpretq_u8_s32(a), vreinterpretq_u8_s32(b)));
}

// The word of one row, times a word of each column.
template <int kLane>
[[gnu::always_inline]] inline Vec multiply_add_lane(uint8x16_t rows, Vec weights, Vec sum) {
  return vfmaq_laneq_f32(sum, weights, floats_of(rows), kLane);
}
// Two bytes of a row.
inline int8x16_t pair_in_all_lanes(const char* p) {
  int16_t pair;
  __builtin_memcpy(&pair, p, sizeof pair);
  return vreinterpretq_s8_s16(vdupq_n_s16(pair));
}
// Two products of each of 4 columns, and two more: sums of two fit 16 bits. kHalf, kOther: which half of the weights.
template <int kHalf, int kOther>
[[gnu::always_inline]] inline IntVec multiply_add_pairs(int8x16_t row, int8x16_t weights, int8x16_t other_row,
                                                        int8x16_t other, IntVec sum) {
  const int16x8_t products = kHalf ? vmull_high_s8(row, weights) : vmull_s8(vget_low_s8(row), vget_low_s8(weights));
  return vpadalq_s16(sum, kOther ? vmlal_high_s8(products, other_row, other)
                                 : vmlal_s8(products, vget_low_s8(other_row), vget_low_s8(other)));
}
#ifdef __ARM_FEATURE_DOTPROD
template <int kLane>
[[gnu::always_inline]] inline IntVec multiply_add_lane(uint8x16_t rows, int8x16_t weights, IntVec sum) {
  return vdotq_laneq_s32(sum, weights, vreinterpretq_s8_u8(rows), kLane);
}
#endif

#ifdef __ARM_FEATURE_MATMUL_INT8
// Two rows times two columns, whose 8 bytes each along K lie side by side. Lanes of the sums: row 0 by column 0, by
// column 1, row 1 by column 0, by column 1.
inline IntVec multiply_add_2x2(uint8x16_t rows, uint8x16_t columns, IntVec sums) {
  return vmmlaq_s32(sums, vreinterpretq_s8_u8(rows), vreinterpretq_s8_u8(columns));
}
#endif

#ifdef __ARM_FEATURE_BF16_VECTOR_ARITHMETIC
inline Vec multiply_add_2x2(uint8x16_t rows, uint8x16_t columns, Vec sums) {
  return vbfmmlaq_f32(sums, vreinterpretq_bf16_u8(rows), vreinterpretq_bf16_u8(columns));
}

// Rounded to nearest even: `first` in the lower half, `second` in the upper one.
inline Vec bfloat_pairs(Vec first, Vec second) {
  return vreinterpretq_f32_bf16(vcvtq_high_bf16_f32(vcvtq_low_bf16_f32(first), second));
}
inline Vec load_pairs(const uint16_t* p) { return vreinterpretq_f32_u16(vld1q_u16(p)); }
inline void store_pairs(uint16_t* p, Vec pairs) { vst1q_u16(p, vreinterpretq_u16_f32(pairs)); }
// The first `count` numbers of the 8, the others 0.
inline Vec load_first_pairs(const uint16_t* p, int count) {
  uint16_t numbers[2 * kLanes] = {};
  for (int i = 0; i < count; ++i) numbers[i] = p[i];
  return load_pairs(numbers);
}
inline void store_first_pairs(uint16_t* p, Vec pairs, int count) {
  uint16_t numbers[2 * kLanes];
  store_pairs(numbers, pairs);
  for (int i = 0; i < count; ++i) p[i] = numbers[i];
}
#endif

// ---- random numbers: lanes are words, unsigned numbers of 32 bits

inline IntVec words(uint32_t value) { return vreinterpretq_s32_u32(vdupq_n_u32(value)); }
inline IntVec words_from(uint32_t first) {
  const int32_t lanes[kLanes] = {0, 1, 2, 3};
  return vaddq_s32(words(first), vld1q_s32(lanes));
}
// The halves of the 64-bit products.
inline void multiply_words(IntVec v, uint32_t factor, IntVec& high, IntVec& low) {
  const uint32x4_t word = vreinterpretq_u32_s32(v), by = vdupq_n_u32(factor);
  const int32x4_t first = vreinterpretq_s32_u64(vmull_u32(vget_low_u32(word), vget_low_u32(by)));
  const int32x4_t second = vreinterpretq_s32_u64(vmull_high_u32(word, by));
  high = vuzp2q_s32(first, second);
  low = vuzp1q_s32(first, second);
}
inline IntVec exclusive_or(IntVec a, IntVec b, IntVec c) { return veorq_s32(veorq_s32(a, b), c); }
// value where the word is `least` or more, else 0
inline Vec where_at_least(IntVec v, uint32_t least, Vec value) {
  const uint32x4_t reached = vcgeq_u32(vreinterpretq_u32_s32(v), vdupq_n_u32(least));
  return vreinterpretq_f32_u32(vandq_u32(reached, vreinterpretq_u32_f32(value)));
}

}  // namespace

#include "widened_bfloat.h"
