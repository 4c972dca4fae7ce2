// Cache lines that a product fetches in passing. Included by the instruction-set builds alone.
#pragma once
#include "vectors.h"

namespace {

constexpr int64_t kCacheLine = 64;  // bytes, on every CPU that these builds run on

// Rows of memory, of whole lines each.
struct Lines {
  const char* at;
  int64_t count;
  int64_t row, rest;  // lines of a row, and of this one still to come
  int64_t skip;       // bytes from the end of a row's lines to the next row
  int64_t most;       // for one tile

  void fetch() {
    __builtin_prefetch(at, 0, 2);
    at += kCacheLine;
    --count;
    if (--rest == 0) {
      rest = row;
      at += skip;
    }
  }

  void fetch_some(int64_t wanted) {
    if (count == 0) return;
    if (rest > wanted) {  // all of one row
      for (int64_t i = 0; i < wanted; ++i) __builtin_prefetch(at + i * kCacheLine, 0, 2);
      at += wanted * kCacheLine;
      count -= wanted;
      rest -= wanted;
      return;
    }
    for (int64_t i = 0; i < wanted && count > 0; ++i) fetch();
  }
};

inline Lines lines_of(const void* first, int64_t rows, int64_t row_bytes, int64_t row_stride) {
  const int64_t row = divide_up(row_bytes, kCacheLine);
  return {static_cast<const char*>(first), rows * row, row, row, row_stride - row * kCacheLine, rows * row};
}

constexpr int kFetched = 4;  // lists of lines

}  // namespace
