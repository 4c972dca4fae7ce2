// Micro-kernels of AArch64 whose operands are interleaved first: a step of K of a block's rows lies side by side, so
// that one load has it of several rows. `Unit` is what multiplies: Mmla (mmla_tile.h), Lanes
// (lane_tile.h) or Pairs (pair_tile.h), with
//
//     Format, Sum, Sums       of a tile: registers of sums
//     kRowGroup               rows that take as long as one
//     kDepthStep              values along K, to which a panel and interleaved rows are filled up
//     kStepBytes              of a column in a step
//     kRounds                 as in block.h; then `store_rounded`
//     interleave, step, by_rows, chains
//
//    8 rows, in place             steps of K, each of all rows          3 vectors of columns of a panel
//   +-----------------+         +-----+-----+-----+-----+             +-----------------+
//   | 16 bytes of K   |   --->  | 0 1 | 0 1 | 0 1 | 0 1 |      *      | step of a panel |
//   |                 |         | 2 3 | 2 3 |     |     |             |                 |
//   +-----------------+         +-----+-----+-----+-----+             +-----------------+
//
// A block's rows are interleaved once for all panels of a segment, 16 in the models this is for, which takes a
// hundredth of the time that their products take. What a row or the last step lacks is zero there, so nothing behind a
// row is read.
//
// Included by the instruction-set builds alone.
#pragma once
#include "../epilogue.h"
#include "block.h"

namespace {

// A stretch of K of a tile. Sums of a depth that doesn't fit `InterleavedTile::rows_` wait in `sums` for the next
// stretch.
template <class Sum>
struct Stretch {
  bool first, last;
  Sum* sums;
};

// kRows rows by kVectors vectors of columns over `steps` steps of K. The end is vector_tile.h's.
template <class Unit, int kRows, int kVectors, bool kFetch>
__attribute__((noinline)) void interleaved_tile(const char* x, const char* weight, int64_t steps,
                                                const Stretch<typename Unit::Sum>& stretch, const Columns& columns,
                                                bool accumulate, float* y, int64_t y_row_stride, int last_lanes,
                                                Lines* fetched) {
  using Sums = typename Unit::template Sums<kRows, kVectors>;
  Sums sums = {};
  if (!stretch.first) {  // one by one: a copy of all at once would keep them in memory at every step
#pragma GCC unroll 8
    for (int i = 0; i < Sums::kDown; ++i) {
#pragma GCC unroll 6
      for (int j = 0; j < Sums::kAcross; ++j) sums.of[i][j] = stretch.sums[i * Sums::kAcross + j];
    }
  }
  const auto step = [&]() __attribute__((always_inline)) {
    Unit::template step<kRows, kVectors>(x, weight, sums);
    x += Sums::kOperandBytes;
    weight += kVectors * kLanes * Unit::kStepBytes;
  };
  if (kFetch) {
    for (int list = 0; list < kFetched; ++list) {
      Lines lines = fetched[list];
      const int64_t count = least(least(lines.count, lines.most), steps);
      steps -= count;
      for (int64_t k = 0; k < count; ++k) {
        lines.fetch();
        step();
      }
      fetched[list] = lines;
    }
  }
  for (int64_t k = 0; k < steps; ++k) step();
  if (!stretch.last) {
#pragma GCC unroll 8
    for (int i = 0; i < Sums::kDown; ++i) {
#pragma GCC unroll 6
      for (int j = 0; j < Sums::kAcross; ++j) stretch.sums[i * Sums::kAcross + j] = sums.of[i][j];
    }
    return;
  }
  typename Unit::Sum rows[kRows][kVectors];
  Unit::template by_rows<kRows, kVectors>(sums, rows);
  if (accumulate) {
    store_tile<typename Unit::Format, kRows, kVectors, true>(rows, columns, y, y_row_stride, last_lanes);
  } else {
    store_tile<typename Unit::Format, kRows, kVectors, false>(rows, columns, y, y_row_stride, last_lanes);
  }
}

template <class U>
class InterleavedTile {
 public:
  using Unit = U;
  using Format = typename Unit::Format;
  using Operand = typename Format::Operand;
  using Sum = typename Unit::Sum;
  static constexpr int kVectors = 3;
  static constexpr int64_t kRows = 8, kPanelColumns = kVectors * kLanes, kDepthStep = Unit::kDepthStep;
  // A segment of 192 columns and the rows it meets stay in a second-level cache of 256 KB.
  static constexpr int64_t kDeepestSegment = 384;
  static constexpr int64_t kHiddenChunk = 192;
  static constexpr bool kRounds = Unit::kRounds, kRowsStay = true, kAllColumns = false;

  explicit InterleavedTile(int64_t) {}

  // As even as whole groups of rows, which cost what a single row does, can be.
  struct EvenGroups {
    Rows all;
    int64_t groups, count;
    Rows operator[](int64_t t) const { return {at(t), least(at(t + 1), all.end)}; }

   private:
    int64_t at(int64_t t) const { return all.begin + groups * t / count * Unit::kRowGroup; }
  };
  static EvenGroups rows_of(Rows rows) {
    const int64_t count = rows.end - rows.begin;
    return {rows, divide_up(count, Unit::kRowGroup), divide_up(count, kRows)};
  }

  void run(const Block<Format>& block, Lines* fetched) {
    if (block.depth <= kMostDepth) {
      if (block.x != of_ || block.rows != of_rows_ || block.depth != of_depth_) interleave(block, 0, block.depth);
      multiply(block, block.panel, block.depth, {true, true, nullptr}, fetched);
    } else {
      Sum sums[kRows * kVectors];
      const int64_t width = padded_columns(block.width);
      for (int64_t k = 0; k < block.depth; k += kMostDepth) {
        const int64_t depth = least(kMostDepth, block.depth - k);
        interleave(block, k, depth);
        multiply(block, block.panel + k * width, depth, {k == 0, k + depth == block.depth, sums}, fetched);
      }
      finish();
    }
    end(block);
  }

  // Rows may be others next time, in the same place.
  void finish() { of_ = nullptr; }

  static int64_t chains(int64_t iterations) { return Unit::chains(iterations); }

 private:
  static constexpr int64_t kMostDepth = kDeepestSegment;
  static_assert(kMostDepth % kDepthStep == 0, "whole steps");
  using Tile = void (*)(const char*, const char*, int64_t, const Stretch<Sum>&, const Columns&, bool, float*, int64_t,
                        int, Lines*);

  void interleave(const Block<Format>& block, int64_t k, int64_t depth) {
    const int64_t row_bytes = block.x_row_stride * static_cast<int64_t>(sizeof(Operand));
    Unit::interleave(reinterpret_cast<const char*>(block.x + k), row_bytes, block.rows,
                     depth * static_cast<int64_t>(sizeof(Operand)), rows_);
    of_ = block.x;
    of_rows_ = block.rows;
    of_depth_ = block.depth;
  }

  void multiply(const Block<Format>& block, const typename Format::Weight* panel, int64_t depth,
                const Stretch<Sum>& stretch, Lines* fetched) {
    const int64_t vectors = divide_up(block.width, static_cast<int64_t>(kLanes));
    const int64_t column_bytes = round_up(depth, kDepthStep) * static_cast<int64_t>(sizeof(typename Format::Weight));
    const int64_t steps = column_bytes / Unit::kStepBytes;
    const bool fetch = fetched[0].count + fetched[1].count + fetched[2].count + fetched[3].count > 0;
    const Tile run_tile = fetch ? tile_of<true>(block.rows, vectors) : tile_of<false>(block.rows, vectors);
    run_tile(rows_, reinterpret_cast<const char*>(panel), steps, stretch, block.columns, block.accumulate, block.y,
             block.y_row_stride, static_cast<int>(block.width - (vectors - 1) * kLanes), fetched);
  }

  void end(const Block<Format>& block) {
    if constexpr (kRounds) {
      if (uint16_t* const rounded = block.rounded) {
        const int64_t stride = block.rounded_row_stride;  // by value: a store might change what a reference refers to
        activate<Format>(block.activation, block.y, block.y_row_stride, block.rows, block.width,
                         [rounded, stride](int64_t row, int64_t column, Vec v, int lanes) {
                           Unit::store_rounded(rounded + row * stride + column, v, lanes);
                         });
        return;
      }
    }
    activate<Format>(block.activation, block.y, block.y_row_stride, block.rows, block.width);
  }

  template <bool kFetch, int kWide>
  static Tile tile_of(int64_t rows) {
    static_assert(kRows == 8, "the table has one entry a row count");
    // static: GCC would write a local one to the stack in every call
    static constexpr Tile tiles[] = {
        interleaved_tile<Unit, 1, kWide, kFetch>, interleaved_tile<Unit, 2, kWide, kFetch>,
        interleaved_tile<Unit, 3, kWide, kFetch>, interleaved_tile<Unit, 4, kWide, kFetch>,
        interleaved_tile<Unit, 5, kWide, kFetch>, interleaved_tile<Unit, 6, kWide, kFetch>,
        interleaved_tile<Unit, 7, kWide, kFetch>, interleaved_tile<Unit, 8, kWide, kFetch>};
    return tiles[rows - 1];
  }
  template <bool kFetch>
  static Tile tile_of(int64_t rows, int64_t vectors) {
    return vectors == 3 ? tile_of<kFetch, 3>(rows) : vectors == 2 ? tile_of<kFetch, 2>(rows) : tile_of<kFetch, 1>(rows);
  }

  const Operand* of_ = nullptr;  // whose rows are in rows_, and their whole depth
  int64_t of_rows_ = 0, of_depth_ = 0;
  alignas(64) char rows_[kRows * kMostDepth * static_cast<int64_t>(sizeof(Operand))];
};

}  // namespace
