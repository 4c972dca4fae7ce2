// 8 float32 lanes: AVX2 and FMA, with VNNI where the build has it.
#pragma once
#include <immintrin.h>

#include <cstdint>

namespace {

using Vec = __m256;
constexpr int kLanes = 8;
// 4 x 3 accumulators, 3 weight vectors and a broadcast: all 16 registers, 7 loads for 12 multiply-adds.
constexpr int kTileRows = 4, kPanelVectors = 3;

inline Vec broadcast(float value) { return _mm256_set1_ps(value); }
inline Vec load(const float* p) { return _mm256_loadu_ps(p); }
inline void store(float* p, Vec v) { _mm256_storeu_ps(p, v); }
inline __m256i first_lanes(int count) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(count), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
inline Vec load_first(const float* p, int count) { return _mm256_maskload_ps(p, first_lanes(count)); }
inline void store_first(float* p, Vec v, int count) { _mm256_maskstore_ps(p, first_lanes(count), v); }
// A vector of bfloat16 numbers, and one rounded to them: to nearest, ties to even, a NaN stays one.
inline Vec load(const uint16_t* p) {
  const __m128i numbers = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(numbers), 16));
}
inline void store(uint16_t* p, Vec v) {
  const __m256i bits = _mm256_castps_si256(v), half = _mm256_srli_epi32(bits, 16);
  const __m256i odd = _mm256_and_si256(half, _mm256_set1_epi32(1));
  const __m256i up = _mm256_add_epi32(_mm256_add_epi32(bits, odd), _mm256_set1_epi32(0x7fff));
  const __m256i quiet = _mm256_or_si256(half, _mm256_set1_epi32(0x40));
  const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q));
  const __m256i numbers = _mm256_blendv_epi8(_mm256_srli_epi32(up, 16), quiet, nan);
  const __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(numbers, numbers), 0x08);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_castsi256_si128(packed));
}
inline Vec multiply_add(Vec a, Vec b, Vec c) { return _mm256_fmadd_ps(a, b, c); }
inline Vec multiply_add(float a, Vec b, Vec c) { return _mm256_fmadd_ps(_mm256_set1_ps(a), b, c); }
inline Vec minimum(Vec a, Vec b) { return _mm256_min_ps(a, b); }
inline Vec maximum(Vec a, Vec b) { return _mm256_max_ps(a, b); }
inline Vec square_root(Vec v) { return _mm256_sqrt_ps(v); }
inline Vec absolute(Vec v) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), v); }
// lanes of a and b by turns, of their first halves and of their second halves
inline Vec zip_first(Vec a, Vec b) {
  return _mm256_permute2f128_ps(_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b), 0x20);
}
inline Vec zip_second(Vec a, Vec b) {
  return _mm256_permute2f128_ps(_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b), 0x31);
}
// Over all lanes, always in the same order. Of NaNs the larger lane may be any.
inline float sum_of_lanes(Vec v) {
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
inline float largest_lane(Vec v) {
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}
// v where x is not 0 or less, else 0
inline Vec where_positive(Vec x, Vec v) { return _mm256_and_ps(v, _mm256_cmp_ps(x, _mm256_setzero_ps(), _CMP_NLE_UQ)); }
// The larger magnitudes. Infinity is above every number and NaN above that, as bits without a sign compare.
inline Vec larger_magnitude(Vec a, Vec b) {
  const __m256i magnitude = _mm256_and_si256(_mm256_castps_si256(b), _mm256_set1_epi32(0x7fffffff));
  return _mm256_castsi256_ps(_mm256_max_epu32(_mm256_castps_si256(a), magnitude));
}
inline float largest_magnitude(Vec v) {
  const __m256i bits = _mm256_castps_si256(v);
  __m128i most = _mm_max_epu32(_mm256_castsi256_si128(bits), _mm256_extracti128_si256(bits, 1));
  most = _mm_max_epu32(most, _mm_shuffle_epi32(most, _MM_SHUFFLE(1, 0, 3, 2)));
  most = _mm_max_epu32(most, _mm_shuffle_epi32(most, _MM_SHUFFLE(2, 3, 0, 1)));
  return _mm_cvtss_f32(_mm_castsi128_ps(most));
}
inline Vec round_nearest(Vec v) { return _mm256_round_ps(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
// v * 2^n for whole n in [-126, 128]; 2^128 is infinity
inline Vec scale_by_power_of_two(Vec v, Vec n) {
  const __m256i exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
  return _mm256_mul_ps(v, _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23)));
}

// ---- int8: sums of products in int32

using IntVec = __m256i;
inline IntVec load(const int32_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
inline Vec load_ints(const int8_t* p) {
  return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
}
inline Vec to_float(IntVec v) { return _mm256_cvtepi32_ps(v); }
inline IntVec to_int(Vec v) { return _mm256_cvtps_epi32(v); }
inline __m128i to_16_bits(IntVec v) {
  return _mm_packs_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
}

#ifdef __AVXVNNI__
// vpdpbusd multiplies unsigned by signed: an activation is kept as its value + 128, and sums start at -128 times the
// sum of the weights.
using IntOperand = uint8_t;
constexpr int kIntOperandShift = 128;
constexpr int kIntStep = 4;
constexpr int kIntTileRows = kTileRows;
inline IntVec load_int_weights(const int8_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
inline IntVec multiply_add(const IntOperand* four, IntVec weights, IntVec sum) {
  int32_t bytes;
  __builtin_memcpy(&bytes, four, sizeof bytes);
  // As assembly: of the intrinsic, GCC 12 keeps two copies of every sum, and spills them at each step. Unless told, the
  // assembler takes the encoding of AVX-512, which the CPUs that this build is for don't have.
  __asm__("%{vex%} vpdpbusd %2, %1, %0" : "+x"(sum) : "x"(_mm256_set1_epi32(bytes)), "x"(weights));
  return sum;
}
inline __m128i to_operands(IntVec v) {
  const __m128i bytes = _mm_packs_epi16(to_16_bits(v), _mm_setzero_si128());
  return _mm_xor_si128(bytes, _mm_set1_epi8(static_cast<char>(kIntOperandShift)));
}
inline void store(IntOperand* p, IntVec v) { _mm_storel_epi64(reinterpret_cast<__m128i*>(p), to_operands(v)); }
#else
// vpmaddubsw would saturate: activations are kept as 16 bits, weights are widened, and vpmaddwd is exact.
using IntOperand = int16_t;
constexpr int kIntOperandShift = 0;
constexpr int kIntStep = 2;
// A product needs a register before it is added, and beside the sums of 4 rows there is none left: one sum would be
// spilled at every step, which makes a tile a quarter slower.
constexpr int kIntTileRows = 3;
inline IntVec load_int_weights(const int8_t* p) {
  return _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
inline IntVec multiply_add(const IntOperand* two, IntVec weights, IntVec sum) {
  int32_t pair;
  __builtin_memcpy(&pair, two, sizeof pair);
  // As assembly: GCC would compute equal products once, and multiply_add_chains would count what nothing computes.
  IntVec products;
  __asm__("vpmaddwd %3, %2, %1\n\tvpaddd %1, %0, %0"
          : "+x"(sum), "=x"(products)
          : "x"(_mm256_set1_epi32(pair)), "x"(weights));
  return sum;
}
inline void store(IntOperand* p, IntVec v) { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), to_16_bits(v)); }
#endif
inline void store_first(IntOperand* p, IntVec v, int count) {
  IntOperand all[kLanes];
  store(all, v);
  for (int i = 0; i < count; ++i) p[i] = all[i];
}

// ---- bfloat16: products of two are exact in float32, so float32 multiply-adds on widened weights serve

using BfloatOperand = float;
using BfloatWeights = Vec;
constexpr int kBfloatStep = 2, kBfloatTurns = 2;
// 6 x 2 accumulators, 2 weight vectors, a broadcast and the mask: all 16 registers.
constexpr int kBfloatTileRows = 6, kBfloatPanelVectors = 2;
inline Vec load_bfloat_weights(const uint16_t* p, int turn) {
  const __m256i pairs = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  const __m256i second = _mm256_set1_epi32(static_cast<int>(0xffff0000));
  return _mm256_castsi256_ps(turn == 0 ? _mm256_slli_epi32(pairs, 16) : _mm256_and_si256(pairs, second));
}
inline Vec multiply_add_bfloat(const BfloatOperand* two, Vec weights, Vec sum, int turn) {
  // As assembly: of the intrinsic, GCC 12 takes forms that put sums into other registers, and spills some at every
  // step.
  __asm__("vfmadd231ps %2, %1, %0" : "+x"(sum) : "x"(broadcast(two[turn])), "x"(weights));
  return sum;
}

// ---- random numbers: lanes are words, unsigned numbers of 32 bits

inline IntVec words(uint32_t value) { return _mm256_set1_epi32(static_cast<int>(value)); }
inline IntVec words_from(uint32_t first) {
  return _mm256_add_epi32(words(first), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
// The halves of the 64-bit products. The multiplication takes even lanes alone.
inline void multiply_words(IntVec v, uint32_t factor, IntVec& high, IntVec& low) {
  const IntVec even = _mm256_mul_epu32(v, words(factor));
  const IntVec odd = _mm256_mul_epu32(_mm256_srli_epi64(v, 32), words(factor));
  high = _mm256_blend_epi32(_mm256_srli_epi64(even, 32), odd, 0xAA);
  low = _mm256_blend_epi32(even, _mm256_slli_epi64(odd, 32), 0xAA);
}
inline IntVec exclusive_or(IntVec a, IntVec b, IntVec c) { return _mm256_xor_si256(_mm256_xor_si256(a, b), c); }
// value where the word is `least` or more, else 0
inline Vec where_at_least(IntVec v, uint32_t least, Vec value) {
  const __m256i reached = _mm256_cmpeq_epi32(_mm256_max_epu32(v, words(least)), v);
  return _mm256_and_ps(_mm256_castsi256_ps(reached), value);
}

}  // namespace
