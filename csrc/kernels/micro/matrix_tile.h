// The micro-kernel on matrix units: two by two tiles of 16 x 16 sums, K in steps of 64 bytes. `Tiles` is what runs the
// tile instructions: AmxInstructions, or AmxTwin, the same in plain C++.
//
//                              weights, a step of K: 64 bytes of each of 16 columns
//                                 tile 6    tile 7
//                               +---------+---------+
//    operands, a     tile 4     | tile 0  | tile 1  |    sums
//    step of K:      (rows)     |         |         |
//    64 bytes a                 +---------+---------+
//    row             tile 5     | tile 2  | tile 3  |
//                               |         |         |
//                               +---------+---------+
//
// Four loads for four products: from the first-level cache a load takes half as long as a product.
//
// Sums start from the bias, or from what they are added to. Where nothing else is left to do, tiles are stored where
// the result goes. Otherwise the end of a block (GELU, scales, rounding) takes about as long as its products, and runs
// on other units: so sums go to one of two buffers, and the end of one block, two rows at a time, stands between the
// products of the next. `finish` does the last one's.
//
// Beside products on tiles, vectors multiply half as fast, minima and maxima included (benchmarks/beside_tiles.py):
// additions and permutations suffer little. So ends have few multiplications.
//
// Rows that 16 doesn't divide: the last tile begins so far above that it is whole, and computes rows a second time, to
// the same bits. A product of fewer than 16 rows has lower tiles.
//
// Included by the instruction-set builds alone.
#pragma once
#include "../epilogue.h"
#include "../gelu_lookup.h"
#include "block.h"
#include "float32_parts.h"
#include "matrix_bfloat16.h"

namespace {

constexpr int64_t kTileSide = 16;  // rows of a tile; columns of a tile of sums or weights

template <class Format>
constexpr bool kOfBytes = sizeof(typename Format::Operand) == 1;  // int8: sums are int32

template <class Format, class Tiles, int kC, int kA, int kB>
[[gnu::always_inline]] inline void multiply_add_tiles(Tiles& tiles) {
  if constexpr (kOfBytes<Format>) {
    tiles.template multiply_add_int8<kC, kA, kB>();
  } else {
    tiles.template multiply_add_bfloat16<kC, kA, kB>();
  }
}

// One step of K of a block: `between(i)` stands after the i-th of four products, or of as many as there are.
template <class Format, int kTall, int kWide, class Tiles, class Between>
[[gnu::always_inline]] inline void matrix_step(Tiles& tiles, const void* top, const void* bottom, int64_t row_bytes,
                                               const char* panel, int64_t panel_row_bytes, Between between) {
  tiles.template load<4>(top, row_bytes);
  tiles.template load<6>(panel, panel_row_bytes);
  multiply_add_tiles<Format, Tiles, 0, 4, 6>(tiles);
  between(0);
  if constexpr (kWide == 2) {
    tiles.template load<7>(panel + 64, panel_row_bytes);
    multiply_add_tiles<Format, Tiles, 1, 4, 7>(tiles);
    between(1);
  }
  if constexpr (kTall == 2) {
    tiles.template load<5>(bottom, row_bytes);
    multiply_add_tiles<Format, Tiles, 2, 5, 6>(tiles);
    between(2);
  }
  if constexpr (kTall == 2 && kWide == 2) {
    multiply_add_tiles<Format, Tiles, 3, 5, 7>(tiles);
    between(3);
  }
}

// The same by parts: pairs of parts in such an order that every one needs two new tiles of four. What is small comes
// before what is large. `between(i)` stands after the i-th pair.
template <class Format, int kTall, int kWide, class Tiles, class Between>
[[gnu::always_inline]] inline void matrix_step_by_parts(Tiles& tiles, const uint16_t* top, const uint16_t* bottom,
                                                        int64_t row_bytes, int64_t plane_stride, const char* panel,
                                                        int64_t panel_row_bytes, Between between) {
  const auto operands = [&](int plane) __attribute__((always_inline)) {
    tiles.template load<4>(top + plane * plane_stride, row_bytes);
    if constexpr (kTall == 2) tiles.template load<5>(bottom + plane * plane_stride, row_bytes);
  };
  const auto weights = [&](int plane) __attribute__((always_inline)) {
    const char* part = panel + plane * kTileSide * panel_row_bytes;
    tiles.template load<6>(part, panel_row_bytes);
    if constexpr (kWide == 2) tiles.template load<7>(part + 64, panel_row_bytes);
  };
  const auto multiply = [&](int pair) __attribute__((always_inline)) {
    multiply_add_tiles<Format, Tiles, 0, 4, 6>(tiles);
    if constexpr (kWide == 2) multiply_add_tiles<Format, Tiles, 1, 4, 7>(tiles);
    if constexpr (kTall == 2) multiply_add_tiles<Format, Tiles, 2, 5, 6>(tiles);
    if constexpr (kTall == 2 && kWide == 2) multiply_add_tiles<Format, Tiles, 3, 5, 7>(tiles);
    between(pair);
  };
  operands(0);
  if constexpr (Format::kPlanes == 3) {
    weights(2);
    multiply(0);
    weights(1);
    multiply(1);
    operands(1);
    multiply(2);
    weights(0);
    multiply(3);
    operands(2);
    multiply(4);
    operands(0);
    multiply(5);
  } else {
    weights(1);
    multiply(0);
    weights(0);
    multiply(1);
    operands(1);
    multiply(2);
  }
}

// Sums of a block to memory; the lower tiles' begin at `bottom`.
template <int kTall, int kWide, class Tiles>
[[gnu::always_inline]] inline void store_sums(Tiles& tiles, char* top, char* bottom, int64_t row_bytes) {
  tiles.template store<0>(top, row_bytes);
  if constexpr (kWide == 2) tiles.template store<1>(top + 64, row_bytes);
  if constexpr (kTall == 2) tiles.template store<2>(bottom, row_bytes);
  if constexpr (kTall == 2 && kWide == 2) tiles.template store<3>(bottom + 64, row_bytes);
}

template <int kTall, int kWide, class Tiles>
[[gnu::always_inline]] inline void load_sums(Tiles& tiles, const char* top, const char* bottom, int64_t row_bytes) {
  tiles.template load<0>(top, row_bytes);
  if constexpr (kWide == 2) tiles.template load<1>(top + 64, row_bytes);
  if constexpr (kTall == 2) tiles.template load<2>(bottom, row_bytes);
  if constexpr (kTall == 2 && kWide == 2) tiles.template load<3>(bottom + 64, row_bytes);
}

template <int kTall, int kWide, class Tiles>
[[gnu::always_inline]] inline void zero_sums(Tiles& tiles) {
  tiles.template zero<0>();
  if constexpr (kWide == 2) tiles.template zero<1>();
  if constexpr (kTall == 2) tiles.template zero<2>();
  if constexpr (kTall == 2 && kWide == 2) tiles.template zero<3>();
}

template <class F, class T>
class MatrixTile {
 public:
  using Format = F;
  using Tiles = T;
  using Operand = typename Format::Operand;
  static constexpr int64_t kRows = 2 * kTileSide, kPanelColumns = 2 * kTileSide;
  static constexpr int64_t kDepthStep = 64 / static_cast<int64_t>(sizeof(Operand));
  // Deeper segments have fewer ends, and add to y less often. The operands of a block and a panel, 24 KB each in
  // bfloat16, are what a first-level cache of 48 KB holds: of those one streams past.
  static constexpr int64_t kDeepestSegment = Format::kPlanes == 1 ? 384 : 192, kHiddenChunk = kDeepestSegment;
  // Of parts, for one of the numbers they are parts of.
  static constexpr int64_t kProducts = Format::kPlanes * (Format::kPlanes + 1) / 2;
  static constexpr bool kRepairs = Format::kPlanes > 1;
  static constexpr bool kRounds = true, kRowsStay = true, kAllColumns = true;
  static_assert(kLanes == kTileSide, "a row of a tile is a vector");
  static_assert(Format::kStep * sizeof(typename Format::Weight) == 4, "a column of a tile of weights has 4 bytes");

  explicit MatrixTile(int64_t rows) : tiles_(static_cast<int>(rows < 1 ? 1 : least(rows, kTileSide))) {}

  // Whole blocks first: a block's time is that of its tiles, however many of their rows count.
  struct WholeRows {
    Rows all;
    int64_t count;
    Rows operator[](int64_t t) const { return {all.begin + t * kRows, least(all.begin + (t + 1) * kRows, all.end)}; }
  };
  static WholeRows rows_of(Rows rows) { return {rows, divide_up(rows.end - rows.begin, kRows)}; }

  void run(const Block<Format>& block, Lines* fetched) {
    const int64_t whole = block.width / kPanelColumns, rest = block.width % kPanelColumns;
    if (whole > 0) run_panels(block, kPanelColumns, whole, fetched);
    if (rest == 0) return;
    const int64_t done = whole * kPanelColumns;
    Block<Format> last = block;
    last.panel += done * round_up(block.depth, kDepthStep) * Format::kPlanes;
    last.y += done;
    if (last.rounded) last.rounded += done;
    if (last.columns.bias) last.columns.bias += done;
    if constexpr (Format::kScaled) last.columns.scale += done;
    if (last.columns.start) last.columns.start += done;
    run_panels(last, rest, 1, fetched);
  }

  void finish() {
    static constexpr void (*of_kind[kDirect])(End&) = {finish_rows<0>, finish_rows<1>, finish_rows<2>, finish_rows<3>,
                                                       finish_rows<4>, finish_rows<5>, finish_rows<6>, finish_rows<7>};
    if (end_.rows > 0) of_kind[kind_](end_);
  }

  // Four products of tiles that don't depend on each other, repeated as often as parts of a number take: so the count
  // of operations on numbers is whole. Not of zeros, with which the CPU's clock is higher.
  static int64_t chains(int64_t iterations) {
    Tiles tiles(kTileSide);
    alignas(64) uint16_t ones[kTileSide * 32];  // in bfloat16
    for (uint16_t& one : ones) one = 0x3f80;
    tiles.template load<4>(ones, 64);
    tiles.template load<5>(ones, 64);
    tiles.template load<6>(ones, 64);
    tiles.template load<7>(ones, 64);
    for (int64_t n = 0; n < iterations * kProducts; ++n) {
      multiply_add_tiles<Format, Tiles, 0, 4, 6>(tiles);
      multiply_add_tiles<Format, Tiles, 1, 4, 7>(tiles);
      multiply_add_tiles<Format, Tiles, 2, 5, 6>(tiles);
      multiply_add_tiles<Format, Tiles, 3, 5, 7>(tiles);
    }
    return iterations * 4 * 2 * kTileSide * kTileSide * kDepthStep;
  }

 private:
  // `count` panels of `width` columns.
  void run_panels(const Block<Format>& block, int64_t width, int64_t count, Lines* fetched) {
    const bool fused = block.activation == Activation::none || block.activation == Activation::gelu;
    const bool whole = width == kPanelColumns;
    int64_t above = 0;
    if (block.rows <= kTileSide) above = least(block.rows_before, kTileSide - block.rows);
    Start start{kZeros, 0};
    int kind = block.accumulate ? kAccumulate : 0;
    if (kOfBytes<Format>) {
      start = {block.columns.start, 0};
    } else if (kPlain && block.columns.bias) {
      start = {block.columns.bias, 0};
    } else if (kPlain && block.accumulate && whole) {
      start = {block.y, block.y_row_stride * 4};
      kind = 0;
    }
    if (block.activation == Activation::gelu) kind |= kGelu;
    if (block.rounded && fused) kind |= kRounded;
    // Rows above the block are finished, and must not be written again.
    if (kPlain && kind == 0 && whole && above == 0) kind = kDirect;
    if (kind != kind_) finish();
    kind_ = kind;
    static constexpr Multiply of_kind[kKinds][2][2] = {
        {{multiply<0, 1, 1>, multiply<0, 1, 2>}, {multiply<0, 2, 1>, multiply<0, 2, 2>}},
        {{multiply<1, 1, 1>, multiply<1, 1, 2>}, {multiply<1, 2, 1>, multiply<1, 2, 2>}},
        {{multiply<2, 1, 1>, multiply<2, 1, 2>}, {multiply<2, 2, 1>, multiply<2, 2, 2>}},
        {{multiply<3, 1, 1>, multiply<3, 1, 2>}, {multiply<3, 2, 1>, multiply<3, 2, 2>}},
        {{multiply<4, 1, 1>, multiply<4, 1, 2>}, {multiply<4, 2, 1>, multiply<4, 2, 2>}},
        {{multiply<5, 1, 1>, multiply<5, 1, 2>}, {multiply<5, 2, 1>, multiply<5, 2, 2>}},
        {{multiply<6, 1, 1>, multiply<6, 1, 2>}, {multiply<6, 2, 1>, multiply<6, 2, 2>}},
        {{multiply<7, 1, 1>, multiply<7, 1, 2>}, {multiply<7, 2, 1>, multiply<7, 2, 2>}},
        {{nullptr, multiply<kPlainDirect, 1, 2>}, {nullptr, multiply<kPlainDirect, 2, 2>}}};
    of_kind[kind][block.rows > kTileSide][width > kTileSide](*this, block, start, above, width, count, fetched);
    if (!whole || !fused) finish();  // what stands between products is of whole width
    if (fused) return;
    activate<Format>(block.activation, block.y, block.y_row_stride, block.rows, width * count);
    if (!block.rounded) return;
    MatrixBfloat16::prepare(block.y, block.y_row_stride, {0, block.rows},
                            {block.rounded, block.rounded_row_stride, nullptr, 1, width * count});
  }

  template <int kValue>
  struct Number {
    static constexpr int value = kValue;
  };

  // What the end of a block does, as bits; or that there is none.
  enum { kGelu = 1, kAccumulate = 2, kRounded = 4, kDirect = 8, kKinds };
  static constexpr bool kPlain = !Format::kScaled;  // sums are results as they are
  static constexpr int kPlainDirect = kPlain ? kDirect : 0;

  // What sums start from: of the first row and column, and how far the next row's is.
  struct Start {
    const void* first;
    int64_t row_bytes;
  };
  using Multiply = void (*)(MatrixTile&, const Block<Format>&, Start, int64_t above, int64_t width, int64_t count,
                            Lines*);

  // What sums are made of: the operands of the first row, and the panel.
  struct Factors {
    const Operand* x;
    int64_t x_row_stride, x_plane_stride;
    const char* panel;
    int64_t panel_row_bytes, depth;
  };

  // The rows of a block whose end is still to come. Copied field by field: a wide load of fields that narrow stores
  // have just written waits until those are in the cache, behind all of a block's tiles.
  struct End {
    char* sums = nullptr;
    int64_t rows = 0, width = 0;
    Columns columns = {};
    float* y = nullptr;
    int64_t y_row_stride = 0;
    uint16_t* rounded = nullptr;
    int64_t rounded_row_stride = 0;
    Factors factors = {};  // where kRepairs

    End() = default;
    End(const End& other) { *this = other; }
    [[gnu::always_inline]] End& operator=(const End& other) {
      sums = other.sums;
      rows = other.rows;
      width = other.width;
      if constexpr (Format::kScaled) {
        columns.bias = other.columns.bias;
        columns.scale = other.columns.scale;
        columns.row_scale = other.columns.row_scale;
        columns.row_scale_stride = other.columns.row_scale_stride;
      }
      y = other.y;
      y_row_stride = other.y_row_stride;
      rounded = other.rounded;
      rounded_row_stride = other.rounded_row_stride;
      if constexpr (kRepairs) {
        factors.x = other.factors.x;
        factors.x_row_stride = other.factors.x_row_stride;
        factors.x_plane_stride = other.factors.x_plane_stride;
        factors.panel = other.factors.panel;
        factors.panel_row_bytes = other.factors.panel_row_bytes;
        factors.depth = other.factors.depth;
      }
      return *this;
    }

    [[gnu::always_inline]] void skip(int64_t count) {
      sums += count * kSumsRowBytes;
      rows -= count;
      if constexpr (Format::kScaled) columns.row_scale += count * columns.row_scale_stride;
      y += count * y_row_stride;
      rounded += count * rounded_row_stride;
      if constexpr (kRepairs) factors.x += count * factors.x_row_stride;
    }
  };
  static constexpr int64_t kSumsRowBytes = kPanelColumns * 4;

  // kRows rows of kVectors vectors each; before(r, j): what y held. Operation by operation, side by side: one vector
  // after the other would fill the scheduler with what waits for its own vector, and products would wait behind.
  template <int kKind, int kRows, int kVectors, class Before>
  [[gnu::always_inline]] static inline void end_vectors(const End& end, Before before, Vec (&v)[kRows * kVectors]) {
    const auto each = [&](auto work) __attribute__((always_inline)) {
#pragma GCC unroll 4
      for (int i = 0; i < kRows * kVectors; ++i) v[i] = work(v[i], i / kVectors, i % kVectors);
    };
    each([&](Vec, int r, int j) __attribute__((always_inline)) { return sums_of<Format>(end, r, j); });
    if (kKind & kAccumulate) {
      each([&](Vec sum, int r, int j) __attribute__((always_inline)) { return sum + before(r, j); });
    }
    if constexpr (Format::kScaled) {
      each([&](Vec sum, int, int j)
               __attribute__((always_inline)) { return sum + load(end.columns.bias + j * kLanes); });
    }
    if constexpr (bool(kKind & kGelu)) {
      if constexpr (Format::kCoarse) {
        lookup_gelu(v);
      } else {
        gelu_side_by_side(v);
      }
    }
  }

  template <class Of>
  [[gnu::always_inline]] static inline Vec sums_of(const End& end, int r, int j) {
    const char* sums = end.sums + r * kSumsRowBytes + j * 64;
    if constexpr (kOfBytes<Of>) {
      return Of::finish(load(reinterpret_cast<const int32_t*>(sums)), load(end.columns.scale + j * kLanes), end.columns,
                        r);
    } else if constexpr (Of::kScaled) {
      return Of::finish(load(reinterpret_cast<const float*>(sums)), load(end.columns.scale + j * kLanes), end.columns,
                        r);
    } else {
      return load(reinterpret_cast<const float*>(sums));
    }
  }

  // Where an infinity or a NaN is among a row's operands or a column's weights, or sums overflow, a sum of products of
  // parts isn't finite; nor need it be what float32 gives: an infinite operand times a weight's later part, 0, is NaN.
  // So such sums are made anew, of whole numbers. Which are depends on the row and the weights alone.
  [[gnu::always_inline]] static inline void check(const End& end, int64_t rows, int vectors) {
    Vec total = broadcast(0.0f);
    for (int64_t r = 0; r < rows; ++r) {
      for (int j = 0; j < vectors; ++j) total = multiply_add(load_sums_of(end, r, j), broadcast(0.0f), total);
    }
    if (__builtin_expect(!all_finite(total), 0)) repair(end, rows, vectors);
  }
  static Vec load_sums_of(const End& end, int64_t r, int j) {
    return load(reinterpret_cast<const float*>(end.sums + r * kSumsRowBytes + j * 64));
  }

  [[gnu::noinline]] static void repair(const End& end, int64_t rows, int vectors) {
    for (int64_t r = 0; r < rows; ++r) {
      for (int j = 0; j < vectors; ++j) {
        if (all_finite(load_sums_of(end, r, j))) continue;
        store(reinterpret_cast<float*>(end.sums + r * kSumsRowBytes + j * 64), sum_of_wholes(end.factors, r, j));
      }
    }
  }

  static Vec sum_of_wholes(const Factors& factors, int64_t r, int j) {
    const Operand* x = factors.x + r * factors.x_row_stride;
    const int64_t part_bytes = kTileSide * factors.panel_row_bytes;
    Vec sum = broadcast(0.0f);
    for (int64_t k = 0; k < factors.depth; ++k) {
      const char* row = factors.panel + k / kDepthStep * Format::kPlanes * part_bytes +
                        k % kDepthStep / Format::kStep * factors.panel_row_bytes + j * 64;
      float operand = 0.0f;
      Vec weight = broadcast(0.0f);
      for (int p = 0; p < Format::kPlanes; ++p) {
        const Vec pairs = load_pairs(reinterpret_cast<const uint16_t*>(row + p * part_bytes));
        operand += float_of(static_cast<uint32_t>(x[p * factors.x_plane_stride + k]) << 16);
        weight = weight + (k % 2 == 0 ? first_of_pairs(pairs) : second_of_pairs(pairs));
      }
      sum = multiply_add(operand, weight, sum);
    }
    return sum;
  }

  template <int kKind>
  [[gnu::always_inline]] static inline void end_two_rows(End& end) {
    if constexpr (kRepairs) check(end, 2, 2);
    Vec v[4];
    const auto before = [&](int r, int j)
                            __attribute__((always_inline)) { return load(end.y + r * end.y_row_stride + j * kLanes); };
    end_vectors<kKind, 2, 2>(end, before, v);
#pragma GCC unroll 2
    for (int r = 0; r < 2; ++r) {
      if (kKind & kRounded) {
        store_pairs(end.rounded + r * end.rounded_row_stride, bfloat_pairs(v[2 * r], v[2 * r + 1]));
      } else {
        store(end.y + r * end.y_row_stride, v[2 * r]);
        store(end.y + r * end.y_row_stride + kLanes, v[2 * r + 1]);
      }
    }
    end.skip(2);
  }

  // For the twin: so many copies would keep the compiler busy for minutes.
  template <int kKind>
  [[gnu::noinline]] static void end_two_rows_apart(End& end) {
    end_two_rows<kKind>(end);
  }

  // A row of any width. What lies beyond it in sums and columns is padding.
  template <int kKind>
  static void end_row(End& end) {
    const bool wide = end.width > kLanes;
    if constexpr (kRepairs) check(end, 1, wide ? 2 : 1);
    const auto lanes_of = [&](int j) { return static_cast<int>(least(kLanes, end.width - j * kLanes)); };
    const auto before = [&](int, int j) { return load_lanes(end.y + j * kLanes, lanes_of(j)); };
    Vec v[2] = {broadcast(0.0f), broadcast(0.0f)};
    if (wide) {
      end_vectors<kKind, 1, 2>(end, before, v);
    } else {
      Vec first[1];
      end_vectors<kKind, 1, 1>(end, before, first);
      v[0] = first[0];
    }
    if (kKind & kRounded) {
      store_first_pairs(end.rounded, bfloat_pairs(v[0], v[1]), static_cast<int>(end.width));
    } else {
      store_lanes(end.y, v[0], lanes_of(0));
      if (wide) store_lanes(end.y + kLanes, v[1], lanes_of(1));
    }
    end.skip(1);
  }

  template <int kKind>
  static void finish_rows(End& end) {
    if (end.width == kPanelColumns) {
      while (end.rows >= 2) end_two_rows<kKind>(end);
    }
    while (end.rows > 0) end_row<kKind>(end);
  }

  // Some lines of each list; how many are left.
  [[gnu::always_inline]] static inline int64_t fetch_from(Lines* fetched) {
    int64_t left = 0;
    for (int list = 0; list < kFetched; ++list) {
      fetched[list].fetch_some(kLinesAStep * Format::kPlanes);
      left |= fetched[list].count;
    }
    return left;
  }

  // above: how far the upper tiles begin above the block. The panels, `count` of `width` columns, follow each other.
  template <int kKind, int kTall, int kWide>
  [[gnu::noinline]] static void multiply(MatrixTile& self, const Block<Format>& block, Start start, int64_t above,
                                         int64_t width, int64_t count, Lines* fetched) {
    const int64_t below = block.rows - kTileSide;  // how far the lower tiles begin below its first row
    const int64_t row_bytes = block.x_row_stride * static_cast<int64_t>(sizeof(Operand));
    const Operand* top = block.x - above * block.x_row_stride;
    const Operand* bottom = kTall == 2 ? block.x + below * block.x_row_stride : top;
    const char* panel = reinterpret_cast<const char*>(block.panel);
    constexpr int64_t kPanelRowBytes = kWide * 64, kStepBytes = kTileSide * kPanelRowBytes * Format::kPlanes;
    const int64_t whole = block.depth / kDepthStep, rest = block.depth % kDepthStep;

    Tiles& tiles = self.tiles_;
    const auto step = [&](const Operand* from, const Operand* lower, int64_t from_row_bytes, int64_t plane_stride,
                          int64_t k, auto between) __attribute__((always_inline)) {
      if constexpr (Format::kPlanes == 1) {
        matrix_step<Format, kTall, kWide>(tiles, from, lower, from_row_bytes, panel + k * kStepBytes, kPanelRowBytes,
                                          between);
      } else {
        matrix_step_by_parts<Format, kTall, kWide>(tiles, from, lower, from_row_bytes, plane_stride,
                                                   panel + k * kStepBytes, kPanelRowBytes, between);
      }
    };
    // Steps from k to `stop`, the end of two rows after each of a step's first products. A number of ends that is known
    // when this is compiled: a branch at every one of them would be mispredicted now and then, and the unit would wait.
    End end = self.end_;
    int64_t fetches = 1;
    const auto steps = [&](auto pairs, int64_t k, int64_t stop) __attribute__((always_inline)) {
      for (; k < stop; ++k) {
        if (fetches) fetches = fetch_from(fetched);
        step(top + k * kDepthStep, bottom + k * kDepthStep, row_bytes, block.x_plane_stride, k,
             [&](int product) __attribute__((always_inline)) {
               if constexpr (Format::kPlanes == 1) {  // the next step's weights, to the first-level cache
                 const char* next = panel + (k + 1) * kStepBytes + product * kStepBytes / 4;
#pragma GCC unroll 8
                 for (int64_t i = 0; i < kStepBytes / 4; i += kCacheLine) __builtin_prefetch(next + i, 0, 3);
               }
               if (product >= pairs.value) return;
               if constexpr (Tiles::kInstructions) {
                 end_two_rows<kKind>(end);
               } else {
                 end_two_rows_apart<kKind>(end);
               }
             });
      }
    };
    alignas(64) Operand last[Format::kPlanes * kRows * kDepthStep];
    if (rest > 0) {  // what follows in memory may be NaN, which zero weights don't make 0
      __builtin_memset(last, 0, sizeof last);
      const auto copy = [&](const Operand* from, int64_t rows, Operand* to) {
        for (int64_t r = 0; r < rows; ++r) {
          for (int p = 0; p < Format::kPlanes; ++p) {
            __builtin_memcpy(to + (p * kRows + r) * kDepthStep,
                             from + r * block.x_row_stride + p * block.x_plane_stride + whole * kDepthStep,
                             static_cast<unsigned>(rest) * sizeof(Operand));
          }
        }
      };
      copy(top, kTall == 2 ? kTileSide : above + block.rows, last);
      if (kTall == 2) copy(bottom, kTileSide, last + kTileSide * kDepthStep);
    }
    const char* first = static_cast<const char*>(start.first);
    for (int64_t n = 0; n < count; ++n, panel += divide_up(block.depth, kDepthStep) * kStepBytes) {
      if ((Format::kScaled && !kOfBytes<Format>) || first == reinterpret_cast<const char*>(kZeros)) {
        zero_sums<kTall, kWide>(tiles);
      } else {
        load_sums<kTall, kWide>(tiles, first - above * start.row_bytes, first + below * start.row_bytes,
                                start.row_bytes);
        first += kSumsRowBytes;
      }
      // Equally many ends in every step: all at once, in the first ones, they would take longer than those steps'
      // products, and nothing would run beside the last ones'.
      int64_t k = 0;
      if constexpr (kKind != kDirect && kTall == 2 && kWide == 2) {
        const int64_t pairs = end.rows / 2;
        if (pairs > 3 * whole) {
          steps(Number<4>{}, 0, k = least(whole, pairs / 4));
        } else if (pairs > 2 * whole) {
          steps(Number<3>{}, 0, k = pairs / 3);
        } else if (pairs > whole) {
          steps(Number<2>{}, 0, k = pairs / 2);
        } else {
          steps(Number<1>{}, 0, k = pairs);
        }
      }
      steps(Number<0>{}, k, whole);
      if (rest > 0) {
        step(last, last + kTileSide * kDepthStep, 64, kRows * kDepthStep, whole, [](int) {});
      }
      if constexpr (kKind == kDirect) {
        char* y = reinterpret_cast<char*>(block.y + n * kPanelColumns);
        store_sums<kTall, kWide>(tiles, y, y + below * block.y_row_stride * 4, block.y_row_stride * 4);
        continue;
      }
      if (end.rows > 0) {
        self.end_ = end;
        finish_rows<kKind>(self.end_);
      }
      char* sums = self.sums_[self.buffer_ ^= 1];
      store_sums<kTall, kWide>(tiles, sums, sums + (kTall == 2 ? below : 0) * kSumsRowBytes, kSumsRowBytes);
      const int64_t done = n * kPanelColumns;
      end.sums = sums + above * kSumsRowBytes;
      end.rows = block.rows;
      end.width = width;
      if constexpr (Format::kScaled) {
        end.columns.bias = block.columns.bias ? block.columns.bias + done : kZeros;
        end.columns.scale = block.columns.scale + done;
        end.columns.row_scale = block.columns.row_scale;
        end.columns.row_scale_stride = block.columns.row_scale_stride;
      }
      end.y = block.y + done;
      end.y_row_stride = block.y_row_stride;
      if constexpr (bool(kKind & kRounded)) {
        end.rounded = block.rounded + done;
        end.rounded_row_stride = block.rounded_row_stride;
      }
      if constexpr (kRepairs) {
        end.factors.x = block.x;
        end.factors.x_row_stride = block.x_row_stride;
        end.factors.x_plane_stride = block.x_plane_stride;
        end.factors.panel = panel;
        end.factors.panel_row_bytes = kPanelRowBytes;
        end.factors.depth = block.depth;
      }
    }
    if constexpr (kKind != kDirect) self.end_ = end;
  }

  static constexpr int kLinesAStep = 8;
  static constexpr float kZeros[2 * kLanes] = {};

  Tiles tiles_;
  End end_;
  int kind_ = 0, buffer_ = 0;
  alignas(64) char sums_[2][kRows * kSumsRowBytes];
};

}  // namespace
