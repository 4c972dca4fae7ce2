// Dropout whose mask is never stored: a function of the seed and of an element's row and column, so that a backward, or
// a second forward, draws the same one, whatever the build, the blocks and the number of threads.
//
// Philox 4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011): the seed is the key, the
// counter is (column / 4, row, row's high half, 0), and the four numbers are those of four columns.
// Included by the instruction-set builds alone.
#pragma once
#include "vectors.h"

namespace {

using squeezebert::Dropout;

// Counters of one loop below, which GCC makes vectors of.
constexpr int kCounters = 16;
constexpr int64_t kColumnsAtOnce = 4 * kCounters;

// What kColumnsAtOnce columns from `first`, a multiple of 4, are multiplied by: 0 or the scale.
inline void keep_factors(const Dropout& dropout, int64_t row, int64_t first, float* factors) {
  uint32_t a[kCounters], b[kCounters], c[kCounters], d[kCounters];
  for (int i = 0; i < kCounters; ++i) {
    a[i] = static_cast<uint32_t>(first / 4 + i);
    b[i] = static_cast<uint32_t>(row);
    c[i] = static_cast<uint32_t>(row >> 32);
    d[i] = 0;
  }
  auto key0 = static_cast<uint32_t>(dropout.seed), key1 = static_cast<uint32_t>(dropout.seed >> 32);
  for (int round = 0; round < 10; ++round) {
    for (int i = 0; i < kCounters; ++i) {
      const uint64_t first_product = 0xD2511F53ull * a[i], second_product = 0xCD9E8D57ull * c[i];
      const uint32_t next_a = static_cast<uint32_t>(second_product >> 32) ^ b[i] ^ key0;
      const uint32_t next_c = static_cast<uint32_t>(first_product >> 32) ^ d[i] ^ key1;
      b[i] = static_cast<uint32_t>(second_product);
      d[i] = static_cast<uint32_t>(first_product);
      a[i] = next_a;
      c[i] = next_c;
    }
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
  const uint32_t threshold = dropout.threshold;
  const float scale = dropout.scale;
  for (int i = 0; i < kCounters; ++i) {
    factors[4 * i] = a[i] < threshold ? 0.0f : scale;
    factors[4 * i + 1] = b[i] < threshold ? 0.0f : scale;
    factors[4 * i + 2] = c[i] < threshold ? 0.0f : scale;
    factors[4 * i + 3] = d[i] < threshold ? 0.0f : scale;
  }
}

// Calls visit(i, lanes, factors) for the vectors of `count` columns from `first`, a multiple of 4.
template <class Visit>
inline void for_each_kept(const Dropout& dropout, int64_t row, int64_t first, int64_t count, Visit visit) {
  static_assert(kColumnsAtOnce % kLanes == 0, "whole vectors");
  float factors[kColumnsAtOnce];
  for (int64_t i = 0; i < count; i += kColumnsAtOnce) {
    keep_factors(dropout, row, first + i, factors);
    for_each_vector(least(kColumnsAtOnce, count - i),
                    [&](int64_t j, int lanes) { visit(i + j, lanes, load(factors + j)); });
  }
}

inline void drop_row(const Dropout& dropout, int64_t row, int64_t first, int64_t count, float* values) {
  for_each_kept(dropout, row, first, count, [&](int64_t i, int lanes, Vec factor) {
    store_lanes(values + i, load_lanes(values + i, lanes) * factor, lanes);
  });
}

}  // namespace
