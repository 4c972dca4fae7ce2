// Whole rows by vectors, of float32 or bfloat16. Included by the instruction-set builds alone.
#pragma once
#include "kernel_table.h"

namespace {

constexpr int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
constexpr int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }
constexpr int64_t round_up(int64_t a, int64_t b) { return divide_up(a, b) * b; }
constexpr int64_t padded_columns(int64_t columns) { return round_up(columns, kLanes); }

// Applies `visit(column, lanes)` to a row's vectors, the last of which may have fewer lanes.
template <class Visit>
inline void for_each_vector(int64_t channels, Visit visit) {
  int64_t i = 0;
  for (; i + kLanes <= channels; i += kLanes) visit(i, kLanes);
  if (i < channels) visit(i, static_cast<int>(channels - i));
}
inline Vec load_lanes(const float* p, int lanes) { return lanes == kLanes ? load(p) : load_first(p, lanes); }
inline Vec load_lanes(const uint16_t* p, int lanes) {
  if (lanes == kLanes) return load(p);
  uint16_t all[kLanes] = {};
  for (int i = 0; i < lanes; ++i) all[i] = p[i];
  return load(all);
}
inline void store_lanes(float* p, Vec v, int lanes) {
  if (lanes == kLanes) {
    store(p, v);
  } else {
    store_first(p, v, lanes);
  }
}
inline void store_lanes(uint16_t* p, Vec v, int lanes) {
  if (lanes == kLanes) {
    store(p, v);
    return;
  }
  uint16_t all[kLanes];
  store(all, v);
  for (int i = 0; i < lanes; ++i) p[i] = all[i];
}

// Calls run(T{}) with the T that tensors of this element are of.
template <class Run>
inline void with_element(squeezebert::Element element, Run run) {
  if (element == squeezebert::Element::bfloat16) {
    run(uint16_t{});
  } else {
    run(float{});
  }
}

}  // namespace
