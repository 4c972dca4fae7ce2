// The micro-kernel on vector registers: Format::kTileRows rows by Format::kPanelVectors vectors of sums, each step of K
// an outer product of a column of operands, broadcast, and a row of a packed panel. Included by the instruction-set
// builds alone.
#pragma once
#include "../epilogue.h"
#include "../multiply_add_chains.h"
#include "block.h"

namespace {

constexpr int64_t kPanelColumns = kPanelVectors * kLanes;

// One tile: kRows rows x kVectors vectors over `steps` steps of K, added to what y holds when `accumulate`, plus the
// bias unless it is null. With kFetch, some of `fetched` on the way. Every segment is summed on its own and the bias
// comes last: small sums stay small, which is what keeps the rounding error that of PyTorch's own products. The last
// vector has `last_lanes` real columns.
template <class Format, int kRows, int kVectors, bool kFetch>
__attribute__((noinline)) void tile(const typename Format::Operand* x, int64_t x_row_stride,
                                    const typename Format::Weight* weight, int64_t weight_stride, int64_t steps,
                                    const Columns& columns, bool accumulate, float* y, int64_t y_row_stride,
                                    int last_lanes, Lines* fetched) {
  typename Format::Sum sum[kRows][kVectors];
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int j = 0; j < kVectors; ++j) sum[r][j] = Format::start(columns, j * kLanes);
  }

  const auto step = [&]() __attribute__((always_inline)) {
#pragma GCC unroll 2
    for (int turn = 0; turn < Format::kTurns; ++turn) {
      // Or GCC begins the second turn before it ends the first, and has too few registers for both.
      if (turn > 0) __asm__ volatile("" : "+r"(weight));
      typename Format::Weights w[kVectors];
#pragma GCC unroll 4
      for (int j = 0; j < kVectors; ++j) w[j] = Format::load_weights(weight + j * kLanes * Format::kStep, turn);
#pragma GCC unroll 16
      for (int r = 0; r < kRows; ++r) {
        const auto* operands = x + r * x_row_stride;
#pragma GCC unroll 4
        for (int j = 0; j < kVectors; ++j) sum[r][j] = Format::multiply_add(operands, w[j], sum[r][j], turn);
      }
    }
    weight += weight_stride;
    x += Format::kStep;
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

  if (accumulate) {
    store_tile<Format, kRows, kVectors, true>(sum, columns, y, y_row_stride, last_lanes);
  } else {
    store_tile<Format, kRows, kVectors, false>(sum, columns, y, y_row_stride, last_lanes);
  }
}

template <class Format>
using Tile = void (*)(const typename Format::Operand*, int64_t, const typename Format::Weight*, int64_t, int64_t,
                      const Columns&, bool, float*, int64_t, int, Lines*);

// Four vectors are for the 64 columns of a head, where a tile of them is lower: as many sums, fewer loads a sum.
constexpr int kMostVectors = kTileRows == 8 ? 4 : 3;
template <class Format, int kVectors>
constexpr int kRowsOf = kVectors == 4 ? 6 : Format::kTileRows;

template <class Format, int kVectors, bool kFetch>
inline Tile<Format> tile_of(int64_t rows) {
  constexpr int kMost = kRowsOf<Format, kVectors>;
  static_assert(kMost <= 4 || kMost == 6 || kMost == 8, "the tables below have an entry for each row count");
  // static: GCC would write a local one to the stack in every call
  if constexpr (kMost == 8) {
    static constexpr Tile<Format> tiles[] = {tile<Format, 1, kVectors, kFetch>, tile<Format, 2, kVectors, kFetch>,
                                             tile<Format, 3, kVectors, kFetch>, tile<Format, 4, kVectors, kFetch>,
                                             tile<Format, 5, kVectors, kFetch>, tile<Format, 6, kVectors, kFetch>,
                                             tile<Format, 7, kVectors, kFetch>, tile<Format, 8, kVectors, kFetch>};
    return tiles[rows - 1];
  } else if constexpr (kMost == 6) {
    static constexpr Tile<Format> tiles[] = {tile<Format, 1, kVectors, kFetch>, tile<Format, 2, kVectors, kFetch>,
                                             tile<Format, 3, kVectors, kFetch>, tile<Format, 4, kVectors, kFetch>,
                                             tile<Format, 5, kVectors, kFetch>, tile<Format, 6, kVectors, kFetch>};
    return tiles[rows - 1];
  } else {
    static constexpr Tile<Format> tiles[] = {tile<Format, 1, kVectors, kFetch>, tile<Format, 2, kVectors, kFetch>,
                                             tile<Format, 3, kVectors, kFetch>, tile<Format, 4, kVectors, kFetch>};
    return tiles[rows - 1];
  }
}

template <class Format, bool kFetch>
inline Tile<Format> tile_of(int64_t rows, int64_t vectors) {
  if constexpr (Format::kPanelVectors == 3) {
    if (vectors == 3) return tile_of<Format, 3, kFetch>(rows);
  }
  return vectors == 2 ? tile_of<Format, 2, kFetch>(rows) : tile_of<Format, 1, kFetch>(rows);
}

template <class F>
struct VectorTile {
  using Format = F;
  static constexpr int64_t kRows = Format::kTileRows, kPanelColumns = Format::kPanelVectors * kLanes;
  static constexpr int64_t kDepthStep = Format::kStep;
  // Two weight blocks of the deepest segments, and the rows they meet, stay in a second-level cache of 1 MB.
  static constexpr int64_t kDeepestSegment = 1536 / static_cast<int64_t>(sizeof(typename Format::Weight));
  static constexpr int64_t kHiddenChunk = 192;
  static constexpr bool kRounds = false, kRowsStay = false, kAllColumns = false;

  explicit VectorTile(int64_t) {}
  static EvenRows rows_of(Rows rows) { return {rows, kRows}; }

  void run(const Block<Format>& block, Lines* fetched) {
    using Operand = typename Format::Operand;
    const int64_t vectors = divide_up(block.width, static_cast<int64_t>(kLanes));
    const int64_t stride = vectors * kLanes * Format::kStep, steps = divide_up(block.depth, kDepthStep);
    const int last_lanes = static_cast<int>(block.width - (vectors - 1) * kLanes);
    const bool fetch = fetched[0].count + fetched[1].count + fetched[2].count + fetched[3].count > 0;
    const Tile<Format> run_tile =
        fetch ? tile_of<Format, true>(block.rows, vectors) : tile_of<Format, false>(block.rows, vectors);
    // What follows a row's last operand belongs to another group or row. Ints times the padding weights are zero;
    // floats are NaN when they are infinite or NaN, so a last step that is not whole gets operands of its own.
    const int64_t rest = Format::kScaled ? 0 : block.depth % kDepthStep;
    if (rest == 0) {
      run_tile(block.x, block.x_row_stride, block.panel, stride, steps, block.columns, block.accumulate, block.y,
               block.y_row_stride, last_lanes, fetched);
    } else {
      Operand last[kRows * kDepthStep] = {};
      for (int64_t r = 0; r < block.rows; ++r) {
        for (int64_t i = 0; i < rest; ++i) {
          last[r * kDepthStep + i] = block.x[r * block.x_row_stride + block.depth - rest + i];
        }
      }
      run_tile(block.x, block.x_row_stride, block.panel, stride, steps - 1, Columns{}, block.accumulate, block.y,
               block.y_row_stride, last_lanes, fetched);
      run_tile(last, kDepthStep, block.panel + (steps - 1) * stride, stride, 1, block.columns, true, block.y,
               block.y_row_stride, last_lanes, fetched);
    }
    activate<Format>(block.activation, block.y, block.y_row_stride, block.rows, block.width);
  }
  void finish() {}

  static int64_t chains(int64_t iterations) { return multiply_add_chains<Format>(iterations); }
};

}  // namespace
