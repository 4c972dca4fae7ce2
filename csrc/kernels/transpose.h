// Rows to columns, in registers. Included by the instruction-set builds alone.
#pragma once
#include "vectors.h"

namespace {

// A square block of vectors, rows to columns: after log2(kLanes) rounds of zipping first and second half.
inline void transpose_block(Vec (&v)[kLanes]) {
  for (int round = 1; round < kLanes; round *= 2) {
    Vec zipped[kLanes];
#pragma GCC unroll 16
    for (int i = 0; i < kLanes / 2; ++i) {
      zipped[2 * i] = zip_first(v[i], v[i + kLanes / 2]);
      zipped[2 * i + 1] = zip_second(v[i], v[i + kLanes / 2]);
    }
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; ++i) v[i] = zipped[i];
  }
}

// to[c, r] = from[r, c]. Rows of `to` have room for whole vectors; what follows the last is zero. Rows are read to
// their end, since that is what a CPU fetches ahead.
template <class T>
inline void transpose(const T* from, int64_t stride, int64_t rows, int64_t columns, float* to, int64_t to_stride) {
  for (int64_t r = 0; r < rows; r += kLanes) {
    for (int64_t c = 0; c < columns; c += kLanes) {
      const int lanes = static_cast<int>(least(kLanes, columns - c));
      Vec block[kLanes];
      for (int i = 0; i < kLanes; ++i) {
        block[i] = r + i < rows ? load_lanes(from + (r + i) * stride + c, lanes) : broadcast(0.0f);
      }
      transpose_block(block);
      for (int i = 0; i < lanes; ++i) store(to + (c + i) * to_stride + r, block[i]);
    }
  }
}

}  // namespace
