// Rows of bfloat16 to float32 and back. Included by the instruction-set builds alone.
#pragma once
#include "vectors.h"

namespace {

using squeezebert::Rows;

template <class From, class To>
inline void copy_rows(const From* x, int64_t x_row_stride, int64_t channels, Rows rows, To* y, int64_t y_row_stride) {
  for (int64_t r = rows.begin; r < rows.end; ++r) {
    const From* from = x + r * x_row_stride;
    To* to = y + r * y_row_stride;
    for_each_vector(channels, [&](int64_t i, int lanes) { store_lanes(to + i, load_lanes(from + i, lanes), lanes); });
  }
}

}  // namespace
