// One float32 lane in plain C++: the fallback for every CPU, and what the wider builds are compared with.
#pragma once
#include <cmath>

namespace {

struct Vec {
  float value;
};
constexpr int kLanes = 1;
constexpr int kTileRows = 4;

inline Vec broadcast(float value) { return {value}; }
inline Vec load(const float* p) { return {*p}; }
inline void store(float* p, Vec v) { *p = v.value; }
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
inline Vec round_nearest(Vec v) { return {::nearbyintf(v.value)}; }
inline Vec scale_by_power_of_two(Vec v, Vec n) { return {::ldexpf(v.value, static_cast<int>(n.value))}; }

}  // namespace
