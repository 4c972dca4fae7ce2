// The micro-kernel on AArch64's matrix instructions: smmla (int8) and bfmmla (bfloat16) multiply two rows by two
// columns over 8 bytes of K each, four sums in one register.
//
//                            columns 0, 1   2, 3   ...   10, 11
//                              +-----------+------+-----+------+
//    rows 0, 1   +-------+     | 00 01     |      |     |      |
//                | 2 x 8 |     | 10 11     |      |     |      |      24 registers of sums
//    rows 2, 3   +-------+     +-----------+------+-----+------+
//                |  ...  |     |           |      |     |      |
//
// A step of K is 4 loads of rows, 6 of a panel, and 24 products: a CPU that starts as many of them in a cycle as loads
// (most do) waits for products alone. Of rows in place a register of two would take two loads, 14 in a step, or a load
// and a shuffle, on the units that multiply: 10 loads and 4 shuffles.
//
// int8's sums are exact. bfloat16's are what the instruction makes of them: each is rounded to odd, products two by two
// are added up first, and subnormal numbers are zeros; where a CPU has other modes for it, this is what they start in.
// A sum depends on its own row and column alone, so a NaN stays in its row.
//
// Included by the instruction-set builds alone.
#pragma once
#include "interleaved_tile.h"
#include "matrix_bfloat16.h"

namespace {

struct MmlaBfloat16 : MatrixBfloat16 {
  using Sum = Vec;
  static constexpr int kStep = 4;
  static Vec scale_of(const Columns&, int) { return broadcast(0.0f); }
  static Vec finish(Sum sum, Vec, const Columns&, int) { return sum; }
};

struct MmlaInt8 : Int8 {
  static constexpr int kStep = 8;
};

template <class F>
struct Mmla {
  using Format = F;
  using Sum = typename Format::Sum;
  static constexpr int64_t kRowGroup = 2, kStepBytes = 8;
  static constexpr int64_t kDepthStep = 2 * Format::kStep;  // as many bytes of a row as a load has
  static constexpr bool kRounds = true;
  static_assert(Format::kStep * sizeof(typename Format::Operand) == kStepBytes,
                "a column's or row's share of a product");
  static_assert(Format::kOperandShift == 0, "sums start at zero");

  // By pairs of rows and pairs of columns.
  template <int kRows, int kVectors>
  struct Sums {
    static constexpr int kDown = (kRows + 1) / 2, kAcross = 2 * kVectors, kOperandBytes = kDown * 16;
    Sum of[kDown][kAcross];
  };

  static void interleave(const char* x, int64_t row_bytes, int64_t rows, int64_t depth_bytes, char* to) {
    const int64_t whole = depth_bytes / 16 * 16, step_bytes = divide_up(rows, kRowGroup) * 16;
    for (int64_t r = 0; r < rows; r += kRowGroup, to += 16) {
      const char* even = x + r * row_bytes;
      const char* odd = r + 1 < rows ? even + row_bytes : even;  // of a last row without another, no sum is read
      char* at = to;
      const auto two_steps = [&](uint8x16_t of_even, uint8x16_t of_odd) {
        store_bytes(at, first_halves(of_even, of_odd));
        store_bytes(at + step_bytes, second_halves(of_even, of_odd));
        at += 2 * step_bytes;
      };
      for (int64_t i = 0; i < whole; i += 16) two_steps(load_bytes(even + i), load_bytes(odd + i));
      if (whole < depth_bytes) {
        char last[2][16] = {};
        __builtin_memcpy(last[0], even + whole, static_cast<unsigned>(depth_bytes - whole));
        __builtin_memcpy(last[1], odd + whole, static_cast<unsigned>(depth_bytes - whole));
        two_steps(load_bytes(last[0]), load_bytes(last[1]));
      }
    }
  }

  template <int kRows, int kVectors>
  [[gnu::always_inline]] static inline void step(const char* x, const char* weight, Sums<kRows, kVectors>& sums) {
    constexpr int kPairs = Sums<kRows, kVectors>::kDown;
    uint8x16_t rows[kPairs];
#pragma GCC unroll 4
    for (int p = 0; p < kPairs; ++p) rows[p] = load_bytes(x + p * 16);
#pragma GCC unroll 6
    for (int j = 0; j < 2 * kVectors; ++j) {
      const uint8x16_t columns = load_bytes(weight + j * 16);
#pragma GCC unroll 4
      for (int p = 0; p < kPairs; ++p) sums.of[p][j] = multiply_add_2x2(rows[p], columns, sums.of[p][j]);
    }
  }

  template <int kRows, int kVectors>
  [[gnu::always_inline]] static inline void by_rows(const Sums<kRows, kVectors>& sums, Sum (&rows)[kRows][kVectors]) {
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 3
      for (int j = 0; j < kVectors; ++j) {
        const Sum a = sums.of[r / 2][2 * j], b = sums.of[r / 2][2 * j + 1];
        rows[r][j] = r % 2 == 0 ? first_halves(a, b) : second_halves(a, b);
      }
    }
  }

  static void store_rounded(uint16_t* p, Vec v, int lanes) {
    if (lanes == kLanes) {
      vst1_u16(p, vreinterpret_u16_bf16(vcvt_bf16_f32(v)));
    } else {
      store_first_pairs(p, bfloat_pairs(v, v), lanes);
    }
  }

  static int64_t chains(int64_t iterations) {
    constexpr int kChains = 24;
    volatile char unknown = 1;
    Sum sums[kChains];
    const uint8x16_t operands = vdupq_n_u8(static_cast<uint8_t>(unknown));
#pragma GCC unroll 24
    for (int i = 0; i < kChains; ++i) {  // each from another number, or a compiler that sees equal chains keeps one
      sums[i] = multiply_add_2x2(operands, vdupq_n_u8(static_cast<uint8_t>(unknown + i)), Sum{});
    }
    for (int64_t n = 0; n < iterations; ++n) {
      __asm__ volatile("" : : : "memory");
#pragma GCC unroll 24
      for (int i = 0; i < kChains; ++i) sums[i] = multiply_add_2x2(operands, operands, sums[i]);
    }
    Sum total{};
#pragma GCC unroll 24
    for (int i = 0; i < kChains; ++i) total = total + sums[i];
    volatile Sum used = total;  // or the compiler drops the loop
    (void)used;
    return iterations * kChains * 2 * 2 * 2 * Format::kStep;
  }
};

template <class Format>
using MmlaTile = InterleavedTile<Mmla<Format>>;

}  // namespace
