// Weights as products read them: panels of Micro::kPanelColumns columns, each K / kStep steps of kStep values a column.
// What a last step or vector lacks is zero. Of operands in parts, whose weights matrix_packing.h packs, a step's planes
// follow each other. Included by the instruction-set builds alone.
#pragma once
#include "formats.h"
#include "transpose.h"

namespace {

// Numbers of a column in a panel: whole steps of the micro-kernel.
template <class Micro>
inline int64_t packed_depth(int64_t depth) {
  return round_up(depth, Micro::kDepthStep) * Micro::Format::kPlanes;
}

template <class Micro>
inline int64_t packed_bytes(int64_t columns, int64_t depth) {
  return padded_columns(columns) * packed_depth<Micro>(depth) *
         static_cast<int64_t>(sizeof(typename Micro::Format::Weight));
}

template <class Micro>
inline void pack(const void* weight, int64_t column_stride, int64_t depth_stride, int64_t columns, int64_t depth,
                 void* packed, float*) {
  using Format = typename Micro::Format;
  const auto* from = static_cast<const typename Format::Source*>(weight);
  auto* to = static_cast<typename Format::Weight*>(packed);
  if constexpr (Format::kInPlace) {
    if (depth_stride == 1) {  // an optimizer changes them, so that training packs at every step
      for (int64_t panel = 0; panel < columns; panel += Micro::kPanelColumns) {
        const int64_t width = least(Micro::kPanelColumns, columns - panel), padded = padded_columns(width);
        transpose(from + panel * column_stride, column_stride, width, depth, to, padded);
        to += depth * padded;
      }
      return;
    }
  }
  for (int64_t panel = 0; panel < columns; panel += Micro::kPanelColumns) {
    const int64_t end = panel + padded_columns(least(Micro::kPanelColumns, columns - panel));
    for (int64_t step = 0; step < depth; step += Micro::kDepthStep) {
      for (int64_t k = step; k < step + Micro::kDepthStep; k += Format::kStep) {
        for (int64_t n = panel; n < end; ++n) {
          for (int64_t i = k; i < k + Format::kStep; ++i) {
            *to++ = n < columns && i < depth ? Format::pack(from[n * column_stride + i * depth_stride])
                                             : typename Format::Weight{};
          }
        }
      }
    }
  }
}

}  // namespace
