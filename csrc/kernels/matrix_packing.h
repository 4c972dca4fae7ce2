// What packing.h's `pack` makes of weights in bfloat16, by vectors. In training an optimizer changes the weights, so
// they are packed at every step. Included by the instruction-set builds alone.
#pragma once
#include "micro/matrix_bfloat16.h"

namespace {

// `Panels`: as matrix_attention.h has it.
template <class Panels, class T>
inline void pack_rows_rounded(const T* from, int64_t stride, int64_t depth, int64_t columns, uint16_t* panels) {
  Panels::pack_rows(
      [&](int64_t k, int64_t n) {
        return k < depth ? bfloat_step(from + k * stride + n, columns - n) : broadcast(0.0f);
      },
      round_up(depth, Panels::kStep), columns, panels);
}

// One of the strides is 1.
template <class Panels>
inline void pack_rounded(const void* weight, int64_t column_stride, int64_t depth_stride, int64_t columns,
                         int64_t depth, void* packed, float*) {
  const auto* from = static_cast<const float*>(weight);
  auto* to = static_cast<uint16_t*>(packed);
  if (depth_stride == 1) {
    Panels::pack_columns([&](int64_t n, int64_t k) { return bfloat_step(from + n * column_stride + k, depth - k); },
                         columns, round_up(depth, Panels::kStep), to);
  } else {
    pack_rows_rounded<Panels>(from, depth_stride, depth, columns, to);
  }
}

}  // namespace
