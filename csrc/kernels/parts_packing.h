// matrix_packing.h for float32 by parts. Included by the builds that have it alone.
#pragma once
#include "matrix_packing.h"
#include "micro/float32_parts.h"

namespace {

// By parts a column has a scale. While it is packed, its inverse stands in the scale's place: a power of two has one.
inline void invert(float* scale, int64_t columns) {
  for_each_vector(columns, [scale](int64_t n, int lanes) {
    store_lanes(scale + n, broadcast(1.0f) / load_lanes(scale + n, lanes), lanes);
  });
}

// Of rows [depth, columns].
template <int kParts>
inline void inverse_scales(const float* from, int64_t stride, int64_t depth, int64_t columns, float* inverse) {
  for_each_vector(columns, [&](int64_t n, int lanes) {
    Vec magnitude = broadcast(0.0f);
    for (int64_t k = 0; k < depth; ++k) {
      magnitude = larger_magnitude(magnitude, load_lanes(from + k * stride + n, lanes));
    }
    float largest[kLanes];
    store(largest, magnitude);
    for (int i = 0; i < lanes; ++i) {
      inverse[n + i] =
          Float32Parts<kParts>::scale_of(largest[i], depth, [&](int64_t k) { return from[k * stride + n + i]; });
    }
  });
  invert(inverse, columns);
}

// Rows [depth, columns] to panels, as `pack_rounded` has weights whose columns are next to each other.
template <int kParts, class Panels>
inline void pack_rows_by_parts(const float* from, int64_t stride, int64_t depth, int64_t columns, uint16_t* panels,
                               float* scale) {
  const Vec zero = broadcast(0.0f);
  inverse_scales<kParts>(from, stride, depth, columns, scale);
  const auto load_row = [&](int64_t k, int64_t n) -> Parts<kParts> {
    if (k >= depth) return {};
    const auto half = [&](int64_t first) {
      const auto lanes = static_cast<int>(least(kLanes, columns - first));
      return lanes > 0 ? load_lanes(from + k * stride + first, lanes) * load_lanes(scale + first, lanes) : zero;
    };
    return Float32Parts<kParts>::parts_of(half(n), half(n + kLanes));
  };
  Panels::pack_rows(load_row, round_up(depth, Panels::kStep), columns, panels);
  invert(scale, columns);
}

template <int kParts, class Panels>
inline void pack_by_parts(const void* weight, int64_t column_stride, int64_t depth_stride, int64_t columns,
                          int64_t depth, void* packed, float* scale) {
  const auto* from = static_cast<const float*>(weight);
  auto* to = static_cast<uint16_t*>(packed);
  if (depth_stride != 1) {
    pack_rows_by_parts<kParts, Panels>(from, depth_stride, depth, columns, to, scale);
    return;
  }
  for (int64_t n = 0; n < columns; ++n) {
    const float* column = from + n * column_stride;
    Vec magnitude = broadcast(0.0f);
    for_each_vector(
        depth, [&](int64_t k, int lanes) { magnitude = larger_magnitude(magnitude, load_lanes(column + k, lanes)); });
    scale[n] =
        Float32Parts<kParts>::scale_of(largest_magnitude(magnitude), depth, [column](int64_t k) { return column[k]; });
  }
  const auto load_column = [&](int64_t n, int64_t k) {
    const Vec inverse = broadcast(1.0f / scale[n]);
    const auto half = [&](int64_t first) {
      const auto lanes = static_cast<int>(least(kLanes, depth - first));
      return lanes > 0 ? load_lanes(from + n * column_stride + first, lanes) * inverse : broadcast(0.0f);
    };
    return Float32Parts<kParts>::parts_of(half(k), half(k + kLanes));
  };
  Panels::pack_columns(load_column, columns, round_up(depth, Panels::kStep), to);
}

}  // namespace
