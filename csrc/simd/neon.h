// 4 float32 lanes: AArch64 Advanced SIMD, which every AArch64 CPU has.
#pragma once
#include <arm_neon.h>

namespace {

using Vec = float32x4_t;
constexpr int kLanes = 4;
// 8 x 3 accumulators, 3 weight vectors and a scalar: 28 of 32 registers. The multiply-add takes its scalar as a lane
// operand, so an activation costs one scalar load and no broadcast.
constexpr int kTileRows = 8;

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
inline Vec multiply_add(Vec a, Vec b, Vec c) { return vfmaq_f32(c, a, b); }
inline Vec multiply_add(float a, Vec b, Vec c) { return vfmaq_n_f32(c, b, a); }
inline Vec minimum(Vec a, Vec b) { return vminq_f32(a, b); }
inline Vec maximum(Vec a, Vec b) { return vmaxq_f32(a, b); }
inline Vec round_nearest(Vec v) { return vrndnq_f32(v); }
// v * 2^n for whole n in [-126, 128]; 2^128 is infinity
inline Vec scale_by_power_of_two(Vec v, Vec n) {
  const int32x4_t exponent = vaddq_s32(vcvtq_s32_f32(n), vdupq_n_s32(127));
  return vmulq_f32(v, vreinterpretq_f32_s32(vshlq_n_s32(exponent, 23)));
}

}  // namespace
