// matrix_gradients.h for float32 by parts. Included by the builds that have it alone.
#pragma once
#include "matrix_gradients.h"
#include "parts_packing.h"

namespace {

// A channel of grad or x has a scale for all rows of one product.
template <class M, class Panels>
struct PartsGradients : SumsOfRows {
  using Micro = M;
  static constexpr int kParts = Micro::Format::kPlanes;
  static constexpr int64_t kRowStep = Panels::kStep, kRows = Micro::kDeepestSegment;
  static_assert(kRowStep == kTransposedRows && kRows % kRowStep == 0, "");

  static void transpose(const float* grad, int64_t stride, int64_t rows, int64_t columns, uint16_t* to,
                        int64_t to_stride, float* scale) {
    inverse_scales<kParts>(grad, stride, rows, columns, scale);
    transpose_steps(
        grad, stride, rows, columns,
        [&](const float* from, int64_t c, int lanes) { return load_lanes(from, lanes) * load_lanes(scale + c, lanes); },
        [&](int64_t c, int64_t r, Vec first, Vec second) {
          const Parts<kParts> parts = Float32Parts<kParts>::parts_of(first, second);
          for (int p = 0; p < kParts; ++p) store_pairs(to + (c * kParts + p) * to_stride + r, parts.pairs[p]);
        });
    invert(scale, columns);
  }

  static void pack(const float* x, int64_t stride, int64_t rows, int64_t columns, uint16_t* panels, float* scale) {
    pack_rows_by_parts<kParts, Panels>(x, stride, rows, columns, panels, scale);
  }
};

}  // namespace
