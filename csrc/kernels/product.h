// y = act(x * weight^T + bias) over a list of dense blocks, in any precision.
// Included by the instruction-set builds alone.
//
//            K                   N                          N
//      +-----------+       +---+---+---+             +---+---+---+
//  M   |  tile     |   K   | p | a | n |  packed     | t | i | l |   tile: kTileRows x 3 vectors of sums in registers
//      +-----------+       | e | l | s |  panels     +---+---+---+
//      |           |       +---+---+---+             |           |
//
// Loops, from the outside: segments, whose weights stay in the second-level cache; tiles of rows, whose K operands stay
// in the first-level cache; panels of N, whose weights stream past in the order they are stored; K. Sums over K run in
// one order that depends on the segments alone, so a row's result has the same bits in any tile, batch and thread.
//
// The model's weights are far larger than the caches, and the hardware fetches ahead within one segment and tile alone:
// as long as a segment meets a second tile of rows, memory would lie idle. So tiles fetch the next segment's weights,
// a cache line at each step of K.
#pragma once
#include "activations.h"
#include "formats.h"
#include "transpose.h"

namespace {

using squeezebert::Product;
using squeezebert::Segment;

constexpr int kPanelVectors = 3;
constexpr int64_t kPanelColumns = kPanelVectors * kLanes;

// The end of a tile. `columns` is a copy, and what can be known before is known before: a store through y might change
// what a reference refers to, and the compiler would read it again for every vector.
template <class Format, int kRows, int kVectors, bool kAccumulate>
inline __attribute__((always_inline)) void store_tile(const typename Format::Sum (&sum)[kRows][kVectors],
                                                      const Columns columns, float* y, int64_t y_row_stride,
                                                      int last_lanes) {
#pragma GCC unroll 4
  for (int j = 0; j < kVectors; ++j, y += kLanes) {
    const bool whole = j + 1 < kVectors || last_lanes == kLanes;
    const Vec bias = columns.bias ? load(columns.bias + j * kLanes) : broadcast(0.0f);
    const auto scale = Format::scale_of(columns, j * kLanes);
    if (whole) {
      float* out = y;
#pragma GCC unroll 16
      for (int r = 0; r < kRows; ++r, out += y_row_stride) {
        Vec total = Format::finish(sum[r][j], scale, columns, r);
        if (kAccumulate) total = total + load(out);
        store(out, total + bias);
      }
    } else {
      float* out = y;
#pragma GCC unroll 16
      for (int r = 0; r < kRows; ++r, out += y_row_stride) {
        Vec total = Format::finish(sum[r][j], scale, columns, r);
        if (kAccumulate) total = total + load_first(out, last_lanes);
        store_first(out, total + bias, last_lanes);
      }
    }
  }
}

constexpr int64_t kCacheLine = 64;  // bytes, on every CPU that these builds run on

// Cache lines that a tile fetches in passing, one a step of K: rows of memory, of whole lines each.
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
};

inline Lines lines_of(const void* first, int64_t rows, int64_t row_bytes, int64_t row_stride) {
  const int64_t row = divide_up(row_bytes, kCacheLine);
  return {static_cast<const char*>(first), rows * row, row, row, row_stride - row * kCacheLine, rows * row};
}

constexpr int kFetched = 4;  // lists of lines

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

  const auto step = [&] {
    typename Format::Weights w[kVectors];
#pragma GCC unroll 4
    for (int j = 0; j < kVectors; ++j) w[j] = Format::load_weights(weight + j * kLanes * Format::kStep);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
      for (int j = 0; j < kVectors; ++j) sum[r][j] = Format::multiply_add(x + r * x_row_stride, w[j], sum[r][j]);
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
template <int kVectors>
constexpr int kRowsOf = kVectors == 4 ? 6 : kTileRows;

template <class Format, int kVectors, bool kFetch>
inline Tile<Format> tile_of(int64_t rows) {
  static_assert(kTileRows == 4 || kTileRows == 8, "the tables below have one entry a row count");
  // static: GCC would write a local one to the stack in every call
  if constexpr (kRowsOf<kVectors> == 8) {
    static constexpr Tile<Format> tiles[] = {tile<Format, 1, kVectors, kFetch>, tile<Format, 2, kVectors, kFetch>,
                                             tile<Format, 3, kVectors, kFetch>, tile<Format, 4, kVectors, kFetch>,
                                             tile<Format, 5, kVectors, kFetch>, tile<Format, 6, kVectors, kFetch>,
                                             tile<Format, 7, kVectors, kFetch>, tile<Format, 8, kVectors, kFetch>};
    return tiles[rows - 1];
  } else if constexpr (kRowsOf<kVectors> == 6) {
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
  return vectors == 3   ? tile_of<Format, 3, kFetch>(rows)
         : vectors == 2 ? tile_of<Format, 2, kFetch>(rows)
                        : tile_of<Format, 1, kFetch>(rows);
}

// Rows are dealt out to tiles evenly: 9 rows are 5 and 4, not 8 and 1, which would leave the multiply-add units
// waiting.
struct RowTiles {
  int64_t begin, rows, tiles;
  RowTiles(Rows all, int64_t tile_rows)
      : begin(all.begin), rows(all.end - all.begin), tiles(divide_up(all.end - all.begin, tile_rows)) {}
  Rows operator[](int64_t t) const { return {begin + rows * t / tiles, begin + rows * (t + 1) / tiles}; }
};

template <Vec (*function)(Vec)>
inline void apply(float* y, int64_t row_stride, int64_t rows, int64_t columns) {
  for (int64_t r = 0; r < rows; ++r, y += row_stride) {
    int64_t j = 0;
    for (; j + kLanes <= columns; j += kLanes) store(y + j, function(load(y + j)));
    if (j < columns) {
      const int lanes = static_cast<int>(columns - j);
      store_first(y + j, function(load_first(y + j, lanes)), lanes);
    }
  }
}

template <class Format>
inline void activate(Activation activation, float* y, int64_t row_stride, int64_t rows, int64_t columns) {
  switch (activation) {
    case Activation::none:
      return;
    case Activation::gelu:
      return apply<Format::kScaled ? coarse_gelu : gelu>(y, row_stride, rows, columns);
    case Activation::gelu_tanh:
      return apply<gelu_tanh>(y, row_stride, rows, columns);
    case Activation::relu:
      return apply<relu>(y, row_stride, rows, columns);
    case Activation::silu:
      return apply<silu>(y, row_stride, rows, columns);
  }
}

// ---- packed weights: panels of kPanelColumns columns, each K / kStep steps of kStep values a column. What a last step
// or vector lacks is zero.

template <class Format>
inline int64_t packed_bytes(int64_t columns, int64_t depth) {
  return padded_columns(columns) * round_up(depth, Format::kStep) *
         static_cast<int64_t>(sizeof(typename Format::Weight));
}

template <class Format>
inline void pack(const void* weight, int64_t column_stride, int64_t depth_stride, int64_t columns, int64_t depth,
                 void* packed) {
  const auto* from = static_cast<const typename Format::Source*>(weight);
  auto* to = static_cast<typename Format::Weight*>(packed);
  if constexpr (Format::kInPlace) {
    if (depth_stride == 1) {  // an optimizer changes them, so that training packs at every step
      for (int64_t panel = 0; panel < columns; panel += kPanelColumns) {
        const int64_t width = least(kPanelColumns, columns - panel), padded = padded_columns(width);
        transpose(from + panel * column_stride, column_stride, width, depth, to, padded);
        to += depth * padded;
      }
      return;
    }
  }
  for (int64_t panel = 0; panel < columns; panel += kPanelColumns) {
    const int64_t end = panel + padded_columns(least(kPanelColumns, columns - panel));
    for (int64_t k = 0; k < depth; k += Format::kStep) {
      for (int64_t n = panel; n < end; ++n) {
        for (int64_t i = k; i < k + Format::kStep; ++i) {
          *to++ = n < columns && i < depth ? Format::pack(from[n * column_stride + i * depth_stride])
                                           : typename Format::Weight{};
        }
      }
    }
  }
}

// Panels that fit into the first-level cache beside the rows they meet stay there for all tiles of rows; of larger
// ones, a tile's operands stay, and the weights stream past.
constexpr int64_t kCachedPanel = 16 * 1024;  // bytes

// far_x, far_y: as in Product. ahead: two lists of lines that are needed after this segment.
template <class Format>
inline void run_segment(const Operands& x, const Segment& segment, Activation activation, float* y,
                        int64_t y_row_stride, Rows rows, bool far_x, bool far_y, const Lines (&ahead)[2]) {
  using Operand = typename Format::Operand;
  using Weight = typename Format::Weight;
  const auto* operands = static_cast<const Operand*>(x.data) + segment.in_begin;
  const auto* weight = static_cast<const Weight*>(segment.weight);
  const int64_t steps = divide_up(segment.depth, Format::kStep);
  // What follows a row's last operand belongs to another group or row. Ints times the padding weights are zero; floats
  // are NaN when they are infinite or NaN, so a last step that is not whole gets operands of its own.
  const int64_t rest = Format::kScaled ? 0 : segment.depth % Format::kStep;
  const RowTiles tiles(rows, kTileRows);
  constexpr int64_t kOperandBytes = static_cast<int64_t>(sizeof(Operand)), kFloatBytes = 4;
  Lines fetched[kFetched] = {{}, {}, ahead[0], ahead[1]};
  const auto run_tile = [&](Rows tile_rows, int64_t n) {
    const int64_t count = tile_rows.end - tile_rows.begin;
    const int64_t width = least(kPanelColumns, segment.columns - n);
    const int64_t vectors = divide_up(width, static_cast<int64_t>(kLanes));
    Columns columns{};
    columns.bias = segment.bias ? segment.bias + n : nullptr;
    if constexpr (Format::kScaled) {
      const int64_t group = x.channels > 0 ? segment.in_begin / (x.channels / x.groups) : 0;
      columns.row_scale = x.scale + tile_rows.begin * x.groups + group;
      columns.row_scale_stride = x.groups;
      columns.scale = segment.scale + n;
      columns.start = segment.start + n;
    }
    float* out = y + tile_rows.begin * y_row_stride + segment.out_begin + n;
    const Operand* first = operands + tile_rows.begin * x.row_stride;
    const Weight* panel = weight + n * steps * Format::kStep;
    const int64_t stride = vectors * kLanes * Format::kStep;
    const int last_lanes = static_cast<int>(width - (vectors - 1) * kLanes);
    if (far_y) fetched[0] = lines_of(out, count, width * kFloatBytes, y_row_stride * kFloatBytes);
    const bool fetch = fetched[0].count + fetched[1].count + fetched[2].count + fetched[3].count > 0;
    const Tile<Format> run = fetch ? tile_of<Format, true>(count, vectors) : tile_of<Format, false>(count, vectors);
    if (rest == 0) {
      run(first, x.row_stride, panel, stride, steps, columns, segment.accumulate, out, y_row_stride, last_lanes,
          fetched);
    } else {
      Operand last[kTileRows * Format::kStep] = {};
      for (int64_t r = 0; r < count; ++r) {
        for (int64_t i = 0; i < rest; ++i) {
          last[r * Format::kStep + i] = first[r * x.row_stride + segment.depth - rest + i];
        }
      }
      run(first, x.row_stride, panel, stride, steps - 1, Columns{}, segment.accumulate, out, y_row_stride, last_lanes,
          fetched);
      run(last, Format::kStep, panel + (steps - 1) * stride, stride, 1, columns, true, out, y_row_stride, last_lanes,
          fetched);
    }
    activate<Format>(activation, out, y_row_stride, count, width);
  };
  // The rows of the tiles after this one's, spread over the panels that meet this one's.
  const auto fetch_rows = [&](int64_t t, int64_t panels) {
    if (!far_x || t + 1 >= tiles.tiles) return;
    const Rows following = tiles[t + 1];
    fetched[1] = lines_of(operands + following.begin * x.row_stride, following.end - following.begin,
                          segment.depth * kOperandBytes, x.row_stride * kOperandBytes);
    fetched[1].most = divide_up(fetched[1].count, panels);
  };
  const bool panels_stay = steps * Format::kStep * kPanelColumns * static_cast<int64_t>(sizeof(Weight)) <= kCachedPanel;
  if (panels_stay) {
    for (int64_t n = 0; n < segment.columns; n += kPanelColumns) {
      for (int64_t t = 0; t < tiles.tiles; ++t) {
        if (n == 0) fetch_rows(t, 1);
        run_tile(tiles[t], n);
      }
    }
  } else {
    const int64_t panels = divide_up(segment.columns, kPanelColumns);
    for (int64_t t = 0; t < tiles.tiles; ++t) {
      const Rows tile_rows = tiles[t];
      fetch_rows(t, panels);
      for (int64_t n = 0; n < segment.columns; n += kPanelColumns) run_tile(tile_rows, n);
    }
  }
}

template <class Format>
inline void product(const Product& p, Rows rows) {
  for (int64_t s = 0; s < p.segment_count; ++s) {
    const Segment& segment = p.segments[s];
    // The activation follows a column's last block, the one before the next column's first.
    const bool last = s + 1 == p.segment_count || !p.segments[s + 1].accumulate;
    const Segment* next = s + 1 < p.segment_count ? &segment + 1 : p.next;
    // The later blocks of the same columns find these in the cache.
    const bool first = s == 0 || p.segments[s - 1].out_begin != segment.out_begin;
    const int64_t ahead = next ? packed_bytes<Format>(next->columns, next->depth) : 0;
    run_segment<Format>(p.x, segment, last ? p.activation : Activation::none, p.y, p.y_row_stride, rows, p.far_x,
                        p.far_y && first, {lines_of(next ? next->weight : nullptr, 1, ahead, 0), {}});
  }
}

}  // namespace
