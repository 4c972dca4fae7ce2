// 8 float32 lanes: AVX2 and FMA.
#pragma once
#include <immintrin.h>

namespace {

using Vec = __m256;
constexpr int kLanes = 8;
// 4 x 3 accumulators, 3 weight vectors and a broadcast: all 16 registers, 7 loads for 12 multiply-adds.
constexpr int kTileRows = 4;

inline Vec broadcast(float value) { return _mm256_set1_ps(value); }
inline Vec load(const float* p) { return _mm256_loadu_ps(p); }
inline void store(float* p, Vec v) { _mm256_storeu_ps(p, v); }
inline __m256i first_lanes(int count) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(count), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
inline Vec load_first(const float* p, int count) { return _mm256_maskload_ps(p, first_lanes(count)); }
inline void store_first(float* p, Vec v, int count) { _mm256_maskstore_ps(p, first_lanes(count), v); }
inline Vec multiply_add(Vec a, Vec b, Vec c) { return _mm256_fmadd_ps(a, b, c); }
inline Vec multiply_add(float a, Vec b, Vec c) { return _mm256_fmadd_ps(_mm256_set1_ps(a), b, c); }
inline Vec minimum(Vec a, Vec b) { return _mm256_min_ps(a, b); }
inline Vec maximum(Vec a, Vec b) { return _mm256_max_ps(a, b); }
inline Vec round_nearest(Vec v) { return _mm256_round_ps(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
// v * 2^n for whole n in [-126, 128]; 2^128 is infinity
inline Vec scale_by_power_of_two(Vec v, Vec n) {
  const __m256i exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
  return _mm256_mul_ps(v, _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23)));
}

}  // namespace
