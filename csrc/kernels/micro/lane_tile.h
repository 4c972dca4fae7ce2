// The micro-kernel on AArch64's multiply-adds by a lane: fmla (float32) and sdot (int8) take one of four numbers of a
// register times a whole register of columns, so interleaved rows, four to a register, need no broadcast.
//
//                       columns 0 to 3   4 to 7   8 to 11
//                          +--------+---------+---------+
//    rows 0 to 3   lane 0  | row 0  |         |         |
//                  lane 1  | row 1  |         |         |      24 registers of sums
//    rows 4 to 7   ...     |  ...   |         |         |
//                          +--------+---------+---------+
//
// A step of K is 2 loads of rows, 3 of a panel and 24 multiply-adds. Rows in place take 8 loads in float32; in int8,
// where a loaded word has to be copied to all lanes by the units that multiply, a third of their time.
//
// Included by the instruction-set builds alone.
#pragma once
#include "../multiply_add_chains.h"
#include "../transpose.h"
#include "interleaved_tile.h"

namespace {

// Operands of words, four rows to a register.
struct RowsOfWords {
  // Words of four rows at a time, four steps of each.
  static void interleave(const char* x, int64_t row_bytes, int64_t rows, int64_t depth_bytes, char* to) {
    const int64_t whole = depth_bytes / 16 * 16, step_bytes = divide_up(rows, int64_t{kLanes}) * 16;
    for (int64_t r = 0; r < rows; r += kLanes, to += 16) {
      const char* row[kLanes];
      for (int64_t i = 0; i < kLanes; ++i)
        row[i] = x + least(r + i, rows - 1) * row_bytes;  // a sum too many isn't read
      char* at = to;
      const auto four_steps = [&](Vec(&block)[kLanes]) {
        transpose_block(block);
        for (const Vec& step : block) {
          store_bytes(at, bytes_of(step));
          at += step_bytes;
        }
      };
      Vec block[kLanes];
      for (int64_t b = 0; b < whole; b += 16) {
        for (int i = 0; i < kLanes; ++i) block[i] = floats_of(load_bytes(row[i] + b));
        four_steps(block);
      }
      if (whole < depth_bytes) {
        for (int i = 0; i < kLanes; ++i) {
          char last[16] = {};
          __builtin_memcpy(last, row[i] + whole, static_cast<unsigned>(depth_bytes - whole));
          block[i] = floats_of(load_bytes(last));
        }
        four_steps(block);
      }
    }
  }
};

// Sums by row and vector of columns.
template <class Sum, int kRows, int kVectors>
struct SumsByRow {
  static constexpr int kDown = kRows, kAcross = kVectors, kRegisters = (kRows + 3) / 4;
  static constexpr int kOperandBytes = kRegisters * 16;
  Sum of[kDown][kAcross];

  [[gnu::always_inline]] inline void by_rows(Sum (&rows)[kRows][kVectors]) const {
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 3
      for (int j = 0; j < kVectors; ++j) rows[r][j] = of[r][j];
    }
  }
};

template <class F>
struct Lanes : RowsOfWords {
  using Format = F;
  using Sum = typename Format::Sum;
  using Weights = typename Format::Weights;
  static constexpr int64_t kRowGroup = 1, kDepthStep = Format::kStep;
  static constexpr int64_t kStepBytes = Format::kStep * static_cast<int64_t>(sizeof(typename Format::Weight));
  static constexpr bool kRounds = false;
  static_assert(Format::kStep * sizeof(typename Format::Operand) == 4, "a lane");
  static_assert(Format::kOperandShift == 0, "sums start at zero");

  template <int kRows, int kVectors>
  using Sums = SumsByRow<Sum, kRows, kVectors>;

  template <int kRows, int kVectors>
  [[gnu::always_inline]] static inline void step(const char* x, const char* weight, Sums<kRows, kVectors>& sums) {
    Weights w[kVectors];
    uint8x16_t rows[Sums<kRows, kVectors>::kRegisters];
#pragma GCC unroll 2
    for (int i = 0; i < Sums<kRows, kVectors>::kRegisters; ++i) rows[i] = load_bytes(x + i * 16);
#pragma GCC unroll 3
    for (int j = 0; j < kVectors; ++j) {
      w[j] = Format::load_weights(reinterpret_cast<const typename Format::Weight*>(weight) + j * kLanes * Format::kStep,
                                  0);
    }
    multiply_row<0>(rows, w, sums);
  }

  template <int kRows, int kVectors>
  [[gnu::always_inline]] static inline void by_rows(const Sums<kRows, kVectors>& sums, Sum (&rows)[kRows][kVectors]) {
    sums.by_rows(rows);
  }

  static int64_t chains(int64_t iterations) { return multiply_add_chains<Format>(iterations); }

 private:
  // A lane is part of the instruction, so rows are counted when this is compiled.
  template <int kRow, int kRows, int kVectors, int kRegisters>
  [[gnu::always_inline]] static inline void multiply_row(const uint8x16_t (&rows)[kRegisters],
                                                         const Weights (&w)[kVectors], Sums<kRows, kVectors>& sums) {
#pragma GCC unroll 3
    for (int j = 0; j < kVectors; ++j) {
      sums.of[kRow][j] = multiply_add_lane<kRow % kLanes>(rows[kRow / kLanes], w[j], sums.of[kRow][j]);
    }
    if constexpr (kRow + 1 < kRows) multiply_row<kRow + 1>(rows, w, sums);
  }
};

template <class Format>
using LaneTile = InterleavedTile<Lanes<Format>>;

}  // namespace
