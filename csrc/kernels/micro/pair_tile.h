// The micro-kernel for int8 on AArch64 without sdot: two products of a row and a column fit 16 bits, and four of a step
// are added to a sum of 32 bits in three instructions, smull, smlal and sadalp.
//
//    a row's two bytes, in all lanes       x       two bytes of each of 4 columns       8 products, 16 bits
//      k0 k1  k0 k1  k0 k1  k0 k1                     k0 k1  k0 k1  k0 k1  k0 k1           smull
//      k2 k3  k2 k3  k2 k3  k2 k3                     k2 k3  k2 k3  k2 k3  k2 k3           smlal: plus these
//                                                                                          sadalp: pairs, to 4 sums
//
// A row's ints are 127 at most, and -128 a weight's lowest, so 16 bits hold two products. A Cortex-A57 starts one of
// smull and smlal in a cycle: that is 8 products a cycle, where smlal on 16 bits is 4, as many as float32's.
//
// Included by the instruction-set builds alone.
#pragma once
#include "lane_tile.h"

namespace {

struct PairInt8 : Int8 {
  static constexpr int kStep = 2;
};

struct Pairs : RowsOfWords {
  using Format = PairInt8;
  using Sum = IntVec;
  static constexpr int64_t kRowGroup = 1, kDepthStep = 4, kStepBytes = 4;
  static constexpr bool kRounds = false;

  template <int kRows, int kVectors>
  using Sums = SumsByRow<Sum, kRows, kVectors>;

  template <int kRows, int kVectors>
  [[gnu::always_inline]] static inline void step(const char* x, const char* weight, Sums<kRows, kVectors>& sums) {
    int8x16_t w[kVectors];  // the first two bytes of all columns, then the second two
#pragma GCC unroll 3
    for (int j = 0; j < kVectors; ++j) w[j] = load_int_weights(reinterpret_cast<const int8_t*>(weight) + j * 16);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const char* row = x + r / kLanes * 16 + r % kLanes * 4;
      multiply_vector<0>(pair_in_all_lanes(row), pair_in_all_lanes(row + 2), w, sums.of[r]);
    }
  }

  template <int kRows, int kVectors>
  [[gnu::always_inline]] static inline void by_rows(const Sums<kRows, kVectors>& sums, Sum (&rows)[kRows][kVectors]) {
    sums.by_rows(rows);
  }

  static int64_t chains(int64_t iterations);

 private:
  template <int kVector, int kVectors>
  [[gnu::always_inline]] static inline void multiply_vector(int8x16_t first, int8x16_t second,
                                                            const int8x16_t (&w)[kVectors], Sum (&sums)[kVectors]) {
    constexpr int kOther = kVectors + kVector;
    sums[kVector] =
        multiply_add_pairs<kVector % 2, kOther % 2>(first, w[kVector / 2], second, w[kOther / 2], sums[kVector]);
    if constexpr (kVector + 1 < kVectors) multiply_vector<kVector + 1>(first, second, w, sums);
  }
};

inline int64_t Pairs::chains(int64_t iterations) {
  constexpr int kChains = 12;
  volatile char unknown = 1;
  const int8x16_t bytes = vdupq_n_s8(static_cast<int8_t>(unknown));
  Sum sums[kChains];
#pragma GCC unroll 12
  for (int i = 0; i < kChains; ++i) sums[i] = words(static_cast<uint32_t>(unknown + i));
  for (int64_t n = 0; n < iterations; ++n) {
#pragma GCC unroll 12
    for (int i = 0; i < kChains; ++i) {
      int8x16_t operands = bytes;
      __asm__ volatile("" : "+w"(operands));  // or products are computed once
      sums[i] = multiply_add_pairs<0, 1>(operands, bytes, operands, bytes, sums[i]);
    }
  }
  Sum total{};
#pragma GCC unroll 12
  for (int i = 0; i < kChains; ++i) total = total + sums[i];
  volatile Sum used = total;
  (void)used;
  return iterations * kChains * kLanes * 4 * 2;
}

using PairTile = InterleavedTile<Pairs>;

}  // namespace
