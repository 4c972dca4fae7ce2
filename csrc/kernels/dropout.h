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
using squeezebert::Element;

constexpr int64_t kColumnsAtOnce = 4 * kLanes;  // of as many counters as a vector has lanes

// What kColumnsAtOnce columns from `first`, a multiple of 4, are multiplied by: 0 or the scale.
inline void keep_factors(const Dropout& dropout, int64_t row, int64_t first, float* factors) {
  IntVec a = words_from(static_cast<uint32_t>(first / 4)), b = words(static_cast<uint32_t>(row));
  IntVec c = words(static_cast<uint32_t>(row >> 32)), d = words(0);
  auto key0 = static_cast<uint32_t>(dropout.seed), key1 = static_cast<uint32_t>(dropout.seed >> 32);
#pragma GCC unroll 10
  for (int round = 0; round < 10; ++round) {
    IntVec first_high, first_low, second_high, second_low;
    multiply_words(a, 0xD2511F53u, first_high, first_low);
    multiply_words(c, 0xCD9E8D57u, second_high, second_low);
    a = exclusive_or(second_high, b, words(key0));
    c = exclusive_or(first_high, d, words(key1));
    b = second_low;
    d = first_low;
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
  const Vec scale = broadcast(dropout.scale);
  const auto factor = [&](IntVec numbers) { return where_at_least(numbers, dropout.threshold, scale); };
  const Vec of_a = factor(a), of_b = factor(b), of_c = factor(c), of_d = factor(d);
  if (kLanes == 1) {  // nothing to zip
    store(factors, of_a);
    store(factors + 1, of_b);
    store(factors + 2, of_c);
    store(factors + 3, of_d);
    return;
  }
  const Vec ac = zip_first(of_a, of_c), bd = zip_first(of_b, of_d);
  store(factors, zip_first(ac, bd));
  store(factors + kLanes, zip_second(ac, bd));
  const Vec last_ac = zip_second(of_a, of_c), last_bd = zip_second(of_b, of_d);
  store(factors + 2 * kLanes, zip_first(last_ac, last_bd));
  store(factors + 3 * kLanes, zip_second(last_ac, last_bd));
}

// Calls visit(i, lanes, factors) for the vectors of `count` columns from `first`, a multiple of 4.
template <class Visit>
inline void for_each_kept(const Dropout& dropout, int64_t row, int64_t first, int64_t count, Visit visit) {
  float factors[kColumnsAtOnce];
  for (int64_t i = 0; i < count; i += kColumnsAtOnce) {
    keep_factors(dropout, row, first + i, factors);
    for_each_vector(least(kColumnsAtOnce, count - i),
                    [&](int64_t j, int lanes) { visit(i + j, lanes, load(factors + j)); });
  }
}

inline void drop_rows(const Dropout& dropout, const void* x, void* y, int64_t channels, Rows rows, Element element) {
  with_element(element, [&](auto type) {
    using T = decltype(type);
    for (int64_t r = rows.begin; r < rows.end; ++r) {
      const T* from = static_cast<const T*>(x) + r * channels;
      T* to = static_cast<T*>(y) + r * channels;
      for_each_kept(dropout, r, 0, channels, [&](int64_t i, int lanes, Vec factor) {
        store_lanes(to + i, load_lanes(from + i, lanes) * factor, lanes);
      });
    }
  });
}

inline void drop_row(const Dropout& dropout, int64_t row, int64_t first, int64_t count, float* values) {
  for_each_kept(dropout, row, first, count, [&](int64_t i, int lanes, Vec factor) {
    store_lanes(values + i, load_lanes(values + i, lanes) * factor, lanes);
  });
}

}  // namespace
