// The interface of simd/avx512.h in plain C++, on the compiler's vector types: 16 lanes on any CPU, for what only runs
// with 16, the kernels on tiles (amx_twin_build.cpp). Slow, and for tests alone.
#pragma once
#include <cstdint>

namespace {

using Vec = float __attribute__((vector_size(64)));
using IntVec = int32_t __attribute__((vector_size(64)));
using WordVec = uint32_t __attribute__((vector_size(64)));
using Halves = uint16_t __attribute__((vector_size(64)));
constexpr int kLanes = 16;
constexpr int kTileRows = 4, kPanelVectors = 3;

template <class To, class From>
inline To bits_as(const From& from) {
  static_assert(sizeof(To) == sizeof(From), "the same bits");
  To to;
  __builtin_memcpy(&to, &from, sizeof to);
  return to;
}
template <class To>
inline To load_as(const void* p, int64_t bytes = sizeof(To)) {
  To to = {};
  __builtin_memcpy(&to, p, static_cast<unsigned>(bytes));
  return to;
}
template <class To, class Number>
inline To each(Number number) {
  To v;
  for (int i = 0; i < static_cast<int>(sizeof v / sizeof v[0]); ++i) v[i] = number(i);
  return v;
}
template <class Lane>
inline Vec each_lane(Lane lane) {
  return each<Vec>(lane);
}

inline Vec broadcast(float value) { return Vec{} + value; }
inline Vec load(const float* p) { return load_as<Vec>(p); }
inline void store(float* p, Vec v) { __builtin_memcpy(p, &v, sizeof v); }
inline Vec load_first(const float* p, int count) { return load_as<Vec>(p, count * 4); }
inline void store_first(float* p, Vec v, int count) { __builtin_memcpy(p, &v, static_cast<unsigned>(count) * 4); }
// A vector of bfloat16 numbers, and one rounded to them: to nearest, ties to even, a NaN stays one.
inline Vec load(const uint16_t* p) {
  return bits_as<Vec>(each<WordVec>([&](int i) { return static_cast<uint32_t>(p[i]) << 16; }));
}
inline void store(uint16_t* p, Vec v) {
  const WordVec bits = bits_as<WordVec>(v);
  for (int i = 0; i < kLanes; ++i) {
    p[i] = static_cast<uint16_t>((v[i] == v[i] ? bits[i] + 0x7fff + ((bits[i] >> 16) & 1) : bits[i] | 0x400000) >> 16);
  }
}
inline Vec multiply_add(Vec a, Vec b, Vec c) {
  return each_lane([&](int i) { return __builtin_fmaf(a[i], b[i], c[i]); });
}
inline Vec multiply_add(float a, Vec b, Vec c) { return multiply_add(broadcast(a), b, c); }
inline Vec minimum(Vec a, Vec b) { return a < b ? a : b; }
inline Vec maximum(Vec a, Vec b) { return a > b ? a : b; }
// v where its magnitude is below `limit`, else that with v's sign; of a NaN any.
inline Vec clamp(Vec v, float limit) {
  return each_lane(
      [&](int i) { return __builtin_copysignf(__builtin_fabsf(v[i]) < limit ? __builtin_fabsf(v[i]) : limit, v[i]); });
}
// The entry of a table that each lane's last five bits name.
struct TableOf32 {
  Vec first, second;
};
inline Vec look_up(const TableOf32& table, Vec bits) {
  const WordVec entry = bits_as<WordVec>(bits) & 31u;
  return each_lane([&](int i) { return entry[i] < 16 ? table.first[entry[i]] : table.second[entry[i] - 16]; });
}
inline Vec square_root(Vec v) {
  return each_lane([&](int i) { return __builtin_sqrtf(v[i]); });
}
inline Vec absolute(Vec v) { return bits_as<Vec>(bits_as<WordVec>(v) & 0x7fffffffu); }
// lanes of a and b by turns, of their first halves and of their second halves
inline Vec zip_first(Vec a, Vec b) {
  return each_lane([&](int i) { return i % 2 ? b[i / 2] : a[i / 2]; });
}
inline Vec zip_second(Vec a, Vec b) {
  return each_lane([&](int i) { return i % 2 ? b[8 + i / 2] : a[8 + i / 2]; });
}
// In the order of _mm512_reduce_add_ps: halves on halves.
inline float sum_of_lanes(Vec v) {
  for (int half = kLanes / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) v[i] += v[i + half];
  }
  return v[0];
}
inline float largest_lane(Vec v) {
  float largest = v[0];
  for (int i = 1; i < kLanes; ++i) largest = v[i] > largest ? v[i] : largest;
  return largest;
}
// v where x is not 0 or less, else 0
inline Vec where_positive(Vec x, Vec v) { return x <= broadcast(0.0f) ? broadcast(0.0f) : v; }
// The larger magnitudes. Infinity is above every number and NaN above that, as bits without a sign compare.
inline Vec larger_magnitude(Vec a, Vec b) {
  const WordVec first = bits_as<WordVec>(a), second = bits_as<WordVec>(absolute(b));
  return bits_as<Vec>(first > second ? first : second);
}
inline float largest_magnitude(Vec v) {
  const WordVec bits = bits_as<WordVec>(v);
  uint32_t largest = 0;
  for (int i = 0; i < kLanes; ++i) largest = bits[i] > largest ? bits[i] : largest;
  return bits_as<float>(largest);
}
inline bool all_finite(Vec v) {
  const Vec zeros = v - v;
  for (int i = 0; i < kLanes; ++i) {
    if (zeros[i] != 0.0f) return false;
  }
  return true;
}
inline Vec round_nearest(Vec v) {
  return each_lane([&](int i) { return __builtin_nearbyintf(v[i]); });
}
// v * 2^n for whole n in [-126, 128]; 2^128 is infinity
inline Vec scale_by_power_of_two(Vec v, Vec n) {
  return each_lane([&](int i) {
    return n[i] == n[i] ? v[i] * bits_as<float>(static_cast<uint32_t>(static_cast<int32_t>(n[i]) + 127) << 23) : n[i];
  });
}
// The same where x is not below `least`, else 0.
inline Vec scale_unless_below(Vec x, float least, Vec v, Vec n) {
  const Vec bounded = x < broadcast(least) ? broadcast(0.0f) : n;
  return x < broadcast(least) ? broadcast(0.0f) : scale_by_power_of_two(v, bounded);
}

// ---- int8: sums of products in int32

constexpr int kIntTileRows = kTileRows;
inline IntVec load(const int32_t* p) { return load_as<IntVec>(p); }
inline Vec load_ints(const int8_t* p) {
  return each_lane([&](int i) { return static_cast<float>(p[i]); });
}
inline Vec to_float(IntVec v) { return __builtin_convertvector(v, Vec); }
// The smallest int of what is none, as the instruction has it.
inline IntVec to_int(Vec v) {
  return each<IntVec>([&](int i) {
    const float whole = __builtin_nearbyintf(v[i]);
    return whole >= -0x1p31f && whole < 0x1p31f ? static_cast<int32_t>(whole) : INT32_MIN;
  });
}
inline IntVec add(IntVec a, IntVec b) { return bits_as<IntVec>(bits_as<WordVec>(a) + bits_as<WordVec>(b)); }

// As vpdpbusd has them, and tiles.
using IntOperand = uint8_t;
constexpr int kIntOperandShift = 128;
constexpr int kIntStep = 4;
struct IntWeights {
  alignas(64) int8_t weight[4 * kLanes];
};
inline IntWeights load_int_weights(const int8_t* p) { return load_as<IntWeights>(p); }
inline IntVec multiply_add(const IntOperand* four, IntWeights weights, IntVec sum) {
  for (int i = 0; i < 4 * kLanes; ++i) sum[i / 4] += four[i % 4] * weights.weight[i];
  return sum;
}
inline void store_first(IntOperand* p, IntVec v, int count) {
  for (int i = 0; i < count; ++i) p[i] = static_cast<IntOperand>(static_cast<uint32_t>(v[i]) + kIntOperandShift);
}
inline void store(IntOperand* p, IntVec v) { store_first(p, v, kLanes); }

// ---- bfloat16: pairs of products in float32

// Rounded to nearest even, in pairs of two to a lane's 32 bits: `first` in the lower lanes, `second` in the upper ones.
inline Vec bfloat_pairs(Vec first, Vec second) {
  return bits_as<Vec>(each<Halves>([&](int i) {
    const uint32_t bits = bits_as<uint32_t>(i < kLanes ? first[i] : second[i - kLanes]);
    const uint32_t rounded = bits + 0x7fff + (bits >> 16 & 1);
    return static_cast<uint16_t>(((bits & 0x7fffffff) > 0x7f800000 ? bits | 0x400000 : rounded) >> 16);
  }));
}
// A nearest bfloat16, as float32; of finite numbers that don't round to infinity.
inline Vec near_bfloat(Vec v) { return bits_as<Vec>((bits_as<WordVec>(v) + 0x8000u) & 0xffff0000u); }
// A lane's two numbers.
inline Vec first_of_pairs(Vec pairs) { return bits_as<Vec>(bits_as<WordVec>(pairs) << 16); }
inline Vec second_of_pairs(Vec pairs) { return bits_as<Vec>(bits_as<WordVec>(pairs) & 0xffff0000u); }
inline Vec load_pairs(const uint16_t* p) { return load_as<Vec>(p); }
// The first `count` numbers of the 32, the others 0.
inline Vec load_first_pairs(const uint16_t* p, int count) { return load_as<Vec>(p, count * 2); }
inline Vec zip_pairs(Vec a, Vec b, int first) {
  const Halves from_a = bits_as<Halves>(a), from_b = bits_as<Halves>(b);
  return bits_as<Vec>(each<Halves>([&](int i) { return i % 2 ? from_b[first + i / 2] : from_a[first + i / 2]; }));
}
// Numbers of a and b by turns, of their first halves and of their second halves.
inline Vec zip_first_pairs(Vec a, Vec b) { return zip_pairs(a, b, 0); }
inline Vec zip_second_pairs(Vec a, Vec b) { return zip_pairs(a, b, kLanes); }
inline void store_pairs(uint16_t* p, Vec pairs) { __builtin_memcpy(p, &pairs, sizeof pairs); }
// The first `count` numbers of the 32.
inline void store_first_pairs(uint16_t* p, Vec pairs, int count) {
  __builtin_memcpy(p, &pairs, static_cast<unsigned>(count) * 2);
}

// ---- random numbers: lanes are words, unsigned numbers of 32 bits

inline IntVec words(uint32_t value) { return bits_as<IntVec>(WordVec{} + value); }
inline IntVec words_from(uint32_t first) {
  WordVec all = WordVec{} + first;
  for (int i = 0; i < kLanes; ++i) all[i] += static_cast<uint32_t>(i);
  return bits_as<IntVec>(all);
}
// The halves of the 64-bit products.
inline void multiply_words(IntVec v, uint32_t factor, IntVec& high, IntVec& low) {
  const WordVec from = bits_as<WordVec>(v);
  for (int i = 0; i < kLanes; ++i) {
    const uint64_t product = static_cast<uint64_t>(from[i]) * factor;
    high[i] = static_cast<int32_t>(product >> 32);
    low[i] = static_cast<int32_t>(static_cast<uint32_t>(product));
  }
}
inline IntVec exclusive_or(IntVec a, IntVec b, IntVec c) { return a ^ b ^ c; }
// value where the word is `least` or more, else 0
inline Vec where_at_least(IntVec v, uint32_t least, Vec value) {
  return bits_as<WordVec>(v) >= WordVec{} + least ? value : broadcast(0.0f);
}

}  // namespace

#include "../simd/widened_bfloat.h"
