// 16 float32 lanes: AVX-512 F, BW, DQ, VL.
#pragma once
#include <immintrin.h>

namespace {

using Vec = __m512;
constexpr int kLanes = 16;
// 8 x 3 accumulators, 3 weight vectors and a broadcast: 28 of 32 registers, 11 loads for 24 multiply-adds. A taller,
// narrower tile (14 x 2) needs 16 loads for 28, and loses where a neighbour on the core halves the front end.
constexpr int kTileRows = 8;

inline Vec broadcast(float value) { return _mm512_set1_ps(value); }
inline Vec load(const float* p) { return _mm512_loadu_ps(p); }
inline void store(float* p, Vec v) { _mm512_storeu_ps(p, v); }
inline __mmask16 first_lanes(int count) { return static_cast<__mmask16>((1u << count) - 1u); }
inline Vec load_first(const float* p, int count) { return _mm512_maskz_loadu_ps(first_lanes(count), p); }
inline void store_first(float* p, Vec v, int count) { _mm512_mask_storeu_ps(p, first_lanes(count), v); }
inline Vec multiply_add(Vec a, Vec b, Vec c) { return _mm512_fmadd_ps(a, b, c); }
inline Vec multiply_add(float a, Vec b, Vec c) { return _mm512_fmadd_ps(_mm512_set1_ps(a), b, c); }
inline Vec minimum(Vec a, Vec b) { return _mm512_min_ps(a, b); }
inline Vec maximum(Vec a, Vec b) { return _mm512_max_ps(a, b); }
inline Vec round_nearest(Vec v) { return _mm512_roundscale_ps(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
// v * 2^n for whole n in [-126, 128]; 2^128 is infinity
inline Vec scale_by_power_of_two(Vec v, Vec n) { return _mm512_scalef_ps(v, n); }

}  // namespace
