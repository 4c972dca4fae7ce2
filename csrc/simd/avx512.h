// 16 float32 lanes: AVX-512 F, BW, DQ, VL; with VNNI and BF16 where the build has them.
#pragma once
#include <immintrin.h>

#include <cstdint>

namespace {

using Vec = __m512;
constexpr int kLanes = 16;
// 8 x 3 accumulators, 3 weight vectors and a broadcast: 28 of 32 registers, 11 loads for 24 multiply-adds. A taller,
// narrower tile (14 x 2) needs 16 loads for 28, and loses where a neighbour on the core halves the front end.
constexpr int kTileRows = 8, kPanelVectors = 3;

inline Vec broadcast(float value) { return _mm512_set1_ps(value); }
inline Vec load(const float* p) { return _mm512_loadu_ps(p); }
inline void store(float* p, Vec v) { _mm512_storeu_ps(p, v); }
inline __mmask16 first_lanes(int count) { return static_cast<__mmask16>((1u << count) - 1u); }
inline Vec load_first(const float* p, int count) { return _mm512_maskz_loadu_ps(first_lanes(count), p); }
inline void store_first(float* p, Vec v, int count) { _mm512_mask_storeu_ps(p, first_lanes(count), v); }
// A vector of bfloat16 numbers, and one rounded to them: to nearest, ties to even, a NaN stays one.
inline Vec load(const uint16_t* p) {
  const __m256i numbers = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(numbers), 16));
}
inline __m256i rounded(Vec v) {
  const __m512i bits = _mm512_castps_si512(v), half = _mm512_srli_epi32(bits, 16);
  const __m512i odd = _mm512_and_si512(half, _mm512_set1_epi32(1));
  const __m512i up = _mm512_add_epi32(_mm512_add_epi32(bits, odd), _mm512_set1_epi32(0x7fff));
  const __mmask16 nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
  return _mm512_cvtepi32_epi16(_mm512_mask_or_epi32(_mm512_srli_epi32(up, 16), nan, half, _mm512_set1_epi32(0x40)));
}
inline void store(uint16_t* p, Vec v) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), rounded(v)); }
inline Vec multiply_add(Vec a, Vec b, Vec c) { return _mm512_fmadd_ps(a, b, c); }
inline Vec multiply_add(float a, Vec b, Vec c) { return _mm512_fmadd_ps(_mm512_set1_ps(a), b, c); }
inline Vec minimum(Vec a, Vec b) { return _mm512_min_ps(a, b); }
inline Vec maximum(Vec a, Vec b) { return _mm512_max_ps(a, b); }
// v where its magnitude is below `limit`, else that with v's sign; of a NaN any.
inline Vec clamp(Vec v, float limit) { return _mm512_range_ps(v, _mm512_set1_ps(limit), 0x2); }
// The entry of a table that each lane's last five bits name.
struct TableOf32 {
  Vec first, second;
};
inline Vec look_up(const TableOf32& table, Vec bits) {
  return _mm512_permutex2var_ps(table.first, _mm512_castps_si512(bits), table.second);
}
inline Vec square_root(Vec v) { return _mm512_sqrt_ps(v); }
inline Vec absolute(Vec v) { return _mm512_abs_ps(v); }
// lanes of a and b by turns, of their first halves and of their second halves
inline Vec zip_first(Vec a, Vec b) {
  const __m512i lanes = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
  return _mm512_permutex2var_ps(a, lanes, b);
}
inline Vec zip_second(Vec a, Vec b) {
  const __m512i lanes = _mm512_setr_epi32(8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
  return _mm512_permutex2var_ps(a, lanes, b);
}
// Over all lanes, always in the same order. Of NaNs the larger lane may be any.
inline float sum_of_lanes(Vec v) { return _mm512_reduce_add_ps(v); }
inline float largest_lane(Vec v) { return _mm512_reduce_max_ps(v); }
// v where x is not 0 or less, else 0
inline Vec where_positive(Vec x, Vec v) {
  return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, _mm512_setzero_ps(), _CMP_NLE_UQ), v);
}
// The larger magnitudes. Infinity is above every number and NaN above that, as bits without a sign compare.
inline Vec larger_magnitude(Vec a, Vec b) {
  const __m512i magnitude = _mm512_and_si512(_mm512_castps_si512(b), _mm512_set1_epi32(0x7fffffff));
  return _mm512_castsi512_ps(_mm512_max_epu32(_mm512_castps_si512(a), magnitude));
}
inline float largest_magnitude(Vec v) {
  const uint32_t bits = _mm512_reduce_max_epu32(_mm512_castps_si512(v));
  float largest;
  __builtin_memcpy(&largest, &bits, sizeof largest);
  return largest;
}
inline bool all_finite(Vec v) { return _mm512_cmp_ps_mask(_mm512_sub_ps(v, v), _mm512_setzero_ps(), _CMP_NEQ_UQ) == 0; }
inline Vec round_nearest(Vec v) { return _mm512_roundscale_ps(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
// v * 2^n for whole n in [-126, 128]; 2^128 is infinity
inline Vec scale_by_power_of_two(Vec v, Vec n) { return _mm512_scalef_ps(v, n); }
// The same where x is not below `least`, else 0.
inline Vec scale_unless_below(Vec x, float least, Vec v, Vec n) {
  return _mm512_maskz_scalef_ps(_mm512_cmp_ps_mask(x, _mm512_set1_ps(least), _CMP_NLT_UQ), v, n);
}

// ---- int8: sums of products in int32

using IntVec = __m512i;
constexpr int kIntTileRows = kTileRows;
inline IntVec load(const int32_t* p) { return _mm512_loadu_si512(p); }
inline Vec load_ints(const int8_t* p) {
  return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
}
inline Vec to_float(IntVec v) { return _mm512_cvtepi32_ps(v); }
inline IntVec to_int(Vec v) { return _mm512_cvtps_epi32(v); }
inline IntVec add(IntVec a, IntVec b) { return _mm512_add_epi32(a, b); }

#ifdef __AVX512VNNI__
// vpdpbusd multiplies unsigned by signed: an activation is kept as its value + 128, and sums start at -128 times the
// sum of the weights.
using IntOperand = uint8_t;
constexpr int kIntOperandShift = 128;
constexpr int kIntStep = 4;
inline IntVec load_int_weights(const int8_t* p) { return _mm512_loadu_si512(p); }
inline IntVec multiply_add(const IntOperand* four, IntVec weights, IntVec sum) {
  int32_t bytes;
  __builtin_memcpy(&bytes, four, sizeof bytes);
  // As assembly: of the intrinsic, GCC 12 keeps two copies of every sum, and spills them at each step.
  __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(_mm512_set1_epi32(bytes)), "v"(weights));
  return sum;
}
inline void store(IntOperand* p, IntVec v) {
  const __m512i shifted = _mm512_add_epi32(v, _mm512_set1_epi32(kIntOperandShift));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(shifted));
}
inline void store_first(IntOperand* p, IntVec v, int count) {
  const __m512i shifted = _mm512_add_epi32(v, _mm512_set1_epi32(kIntOperandShift));
  _mm512_mask_cvtepi32_storeu_epi8(p, first_lanes(count), shifted);
}
#else
// vpmaddubsw would saturate: activations are kept as 16 bits, weights are widened, and vpmaddwd is exact.
using IntOperand = int16_t;
constexpr int kIntOperandShift = 0;
constexpr int kIntStep = 2;
inline IntVec load_int_weights(const int8_t* p) {
  return _mm512_cvtepi8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
inline IntVec multiply_add(const IntOperand* two, IntVec weights, IntVec sum) {
  int32_t pair;
  __builtin_memcpy(&pair, two, sizeof pair);
  // As assembly: GCC would compute equal products once, and multiply_add_chains would count what nothing computes.
  IntVec products;
  __asm__("vpmaddwd %3, %2, %1\n\tvpaddd %1, %0, %0"
          : "+v"(sum), "=v"(products)
          : "v"(_mm512_set1_epi32(pair)), "v"(weights));
  return sum;
}
inline void store(IntOperand* p, IntVec v) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16(v));
}
inline void store_first(IntOperand* p, IntVec v, int count) {
  _mm512_mask_cvtepi32_storeu_epi16(p, first_lanes(count), v);
}
#endif

// ---- bfloat16: pairs of products in float32

constexpr int kBfloatStep = 2;
constexpr int kBfloatTileRows = kTileRows, kBfloatPanelVectors = kPanelVectors;
#ifdef __AVX512BF16__
using BfloatOperand = uint16_t;
using BfloatWeights = __m512i;
constexpr int kBfloatTurns = 1;
inline BfloatWeights load_bfloat_weights(const uint16_t* p, int) { return _mm512_loadu_si512(p); }
inline Vec multiply_add_bfloat(const BfloatOperand* two, BfloatWeights weights, Vec sum, int) {
  int32_t pair;
  __builtin_memcpy(&pair, two, sizeof pair);
  __asm__("vdpbf16ps %2, %1, %0" : "+v"(sum) : "v"(_mm512_set1_epi32(pair)), "v"(weights));
  return sum;
}
#else
// Products of two bfloat16 are exact in float32, so float32 multiply-adds on widened weights stand for the instruction.
using BfloatOperand = float;
using BfloatWeights = Vec;
constexpr int kBfloatTurns = 2;
inline Vec load_bfloat_weights(const uint16_t* p, int turn) {
  const __m512i pairs = _mm512_loadu_si512(p), second = _mm512_set1_epi32(static_cast<int>(0xffff0000));
  return _mm512_castsi512_ps(turn == 0 ? _mm512_slli_epi32(pairs, 16) : _mm512_and_si512(pairs, second));
}
inline Vec multiply_add_bfloat(const BfloatOperand* two, Vec weights, Vec sum, int turn) {
  // As assembly: of the intrinsic, GCC 12 takes forms that put sums into other registers, and spills some at every
  // step.
  __asm__("vfmadd231ps %2, %1, %0" : "+v"(sum) : "v"(broadcast(two[turn])), "v"(weights));
  return sum;
}
#endif

// Rounded to nearest even, in pairs of two to a lane's 32 bits: `first` in the lower lanes, `second` in the upper ones.
// The instruction takes subnormal numbers for zeros, as products of bfloat16 on tiles do.
inline Vec bfloat_pairs(Vec first, Vec second) {
#ifdef __AVX512BF16__
  __m512i pairs;
  __asm__("vcvtne2ps2bf16 %1, %2, %0" : "=v"(pairs) : "v"(first), "v"(second));
  return _mm512_castsi512_ps(pairs);
#else
  return _mm512_castsi512_ps(_mm512_inserti64x4(_mm512_castsi256_si512(rounded(first)), rounded(second), 1));
#endif
}
// A nearest bfloat16, as float32; of finite numbers that don't round to infinity.
inline Vec near_bfloat(Vec v) {
  const __m512i up = _mm512_add_epi32(_mm512_castps_si512(v), _mm512_set1_epi32(0x8000));
  return _mm512_castsi512_ps(_mm512_and_si512(up, _mm512_set1_epi32(static_cast<int>(0xffff0000))));
}
// A lane's two numbers.
inline Vec first_of_pairs(Vec pairs) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_castps_si512(pairs), 16)); }
inline Vec second_of_pairs(Vec pairs) {
  return _mm512_castsi512_ps(
      _mm512_and_si512(_mm512_castps_si512(pairs), _mm512_set1_epi32(static_cast<int>(0xffff0000))));
}
inline Vec load_pairs(const uint16_t* p) { return _mm512_loadu_ps(p); }
// The first `count` numbers of the 32, the others 0.
inline Vec load_first_pairs(const uint16_t* p, int count) {
  const auto mask = static_cast<__mmask32>((uint64_t{1} << count) - 1);
  return _mm512_castsi512_ps(_mm512_maskz_loadu_epi16(mask, p));
}
// Numbers of a and b by turns, of their first halves and of their second halves.
inline Vec zip_first_pairs(Vec a, Vec b) {
  const __m512i from = _mm512_set_epi16(47, 15, 46, 14, 45, 13, 44, 12, 43, 11, 42, 10, 41, 9, 40, 8, 39, 7, 38, 6, 37,
                                        5, 36, 4, 35, 3, 34, 2, 33, 1, 32, 0);
  return _mm512_castsi512_ps(_mm512_permutex2var_epi16(_mm512_castps_si512(a), from, _mm512_castps_si512(b)));
}
inline Vec zip_second_pairs(Vec a, Vec b) {
  const __m512i from = _mm512_set_epi16(63, 31, 62, 30, 61, 29, 60, 28, 59, 27, 58, 26, 57, 25, 56, 24, 55, 23, 54, 22,
                                        53, 21, 52, 20, 51, 19, 50, 18, 49, 17, 48, 16);
  return _mm512_castsi512_ps(_mm512_permutex2var_epi16(_mm512_castps_si512(a), from, _mm512_castps_si512(b)));
}
inline void store_pairs(uint16_t* p, Vec pairs) { _mm512_storeu_ps(p, pairs); }
// The first `count` numbers of the 32.
inline void store_first_pairs(uint16_t* p, Vec pairs, int count) {
  const auto mask = static_cast<__mmask32>((uint64_t{1} << count) - 1);
  _mm512_mask_storeu_epi16(p, mask, _mm512_castps_si512(pairs));
}

// ---- random numbers: lanes are words, unsigned numbers of 32 bits

inline IntVec words(uint32_t value) { return _mm512_set1_epi32(static_cast<int>(value)); }
inline IntVec words_from(uint32_t first) {
  return _mm512_add_epi32(words(first), _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15));
}
// The halves of the 64-bit products. The multiplication takes even lanes alone.
inline void multiply_words(IntVec v, uint32_t factor, IntVec& high, IntVec& low) {
  const IntVec even = _mm512_mul_epu32(v, words(factor));
  const IntVec odd = _mm512_mul_epu32(_mm512_srli_epi64(v, 32), words(factor));
  high = _mm512_mask_shuffle_epi32(odd, 0x5555, even, _MM_PERM_DDBB);
  low = _mm512_mask_shuffle_epi32(even, 0xAAAA, odd, _MM_PERM_CCAA);
}
inline IntVec exclusive_or(IntVec a, IntVec b, IntVec c) { return _mm512_ternarylogic_epi32(a, b, c, 0x96); }
// value where the word is `least` or more, else 0
inline Vec where_at_least(IntVec v, uint32_t least, Vec value) {
  return _mm512_maskz_mov_ps(_mm512_cmpge_epu32_mask(v, words(least)), value);
}

}  // namespace
