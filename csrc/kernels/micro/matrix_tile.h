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
// The end of a block (bias, GELU, rounding) takes about as long as its products, and runs on other units: so sums go to
// one of two buffers, and the end of one block, two rows at a time, stands between the products of the next. `finish`
// does the last one's.
//
// Rows that 16 doesn't divide: the last tile begins so far above that it is whole, and computes rows a second time, to
// the same bits. A product of fewer than 16 rows has lower tiles.
//
// Included by the instruction-set builds alone.
#pragma once
#include "../epilogue.h"
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
  static constexpr bool kRounds = true, kRowsStay = false;
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
    const bool fused = block.activation == Activation::none || block.activation == Activation::gelu;
    const int kind = (block.activation == Activation::gelu ? kGelu : 0) | (block.accumulate ? kAccumulate : 0) |
                     (block.rounded && fused ? kRounded : 0);
    if (kind != kind_) finish();
    kind_ = kind;
    const bool tall = block.rows > kTileSide, wide = block.width > kTileSide;
    static constexpr Multiply of_kind[kKinds][2][2] = {
        {{multiply<0, 1, 1>, multiply<0, 1, 2>}, {multiply<0, 2, 1>, multiply<0, 2, 2>}},
        {{multiply<1, 1, 1>, multiply<1, 1, 2>}, {multiply<1, 2, 1>, multiply<1, 2, 2>}},
        {{multiply<2, 1, 1>, multiply<2, 1, 2>}, {multiply<2, 2, 1>, multiply<2, 2, 2>}},
        {{multiply<3, 1, 1>, multiply<3, 1, 2>}, {multiply<3, 2, 1>, multiply<3, 2, 2>}},
        {{multiply<4, 1, 1>, multiply<4, 1, 2>}, {multiply<4, 2, 1>, multiply<4, 2, 2>}},
        {{multiply<5, 1, 1>, multiply<5, 1, 2>}, {multiply<5, 2, 1>, multiply<5, 2, 2>}},
        {{multiply<6, 1, 1>, multiply<6, 1, 2>}, {multiply<6, 2, 1>, multiply<6, 2, 2>}},
        {{multiply<7, 1, 1>, multiply<7, 1, 2>}, {multiply<7, 2, 1>, multiply<7, 2, 2>}}};
    of_kind[kind][tall][wide](*this, block, fetched);
    if (block.width < kPanelColumns || !fused) finish();  // what stands between products is of whole width
    if (fused) return;
    activate<Format>(block.activation, block.y, block.y_row_stride, block.rows, block.width);
    if (!block.rounded) return;
    MatrixBfloat16::prepare(block.y, block.y_row_stride, {0, block.rows},
                            {block.rounded, block.rounded_row_stride, nullptr, 1, block.width});
  }

  void finish() {
    static constexpr void (*of_kind[kKinds])(End&) = {finish_rows<0>, finish_rows<1>, finish_rows<2>, finish_rows<3>,
                                                      finish_rows<4>, finish_rows<5>, finish_rows<6>, finish_rows<7>};
    if (end_.rows > 0) of_kind[kind_](end_);
  }

  // Four products of tiles that don't depend on each other, repeated as often as parts of a number take: so the count
  // of operations on numbers is whole.
  static int64_t chains(int64_t iterations) {
    Tiles tiles(kTileSide);
    for (int64_t n = 0; n < iterations * kProducts; ++n) {
      multiply_add_tiles<Format, Tiles, 0, 4, 6>(tiles);
      multiply_add_tiles<Format, Tiles, 1, 4, 7>(tiles);
      multiply_add_tiles<Format, Tiles, 2, 5, 6>(tiles);
      multiply_add_tiles<Format, Tiles, 3, 5, 7>(tiles);
    }
    return iterations * 4 * 2 * kTileSide * kTileSide * kDepthStep;
  }

 private:
  // What the end of a block does, as bits.
  enum { kGelu = 1, kAccumulate = 2, kRounded = 4, kKinds = 8 };
  using Multiply = void (*)(MatrixTile&, const Block<Format>&, Lines*);

  // What sums are made of: the operands of the first row, and the panel.
  struct Factors {
    const Operand* x;
    int64_t x_row_stride, x_plane_stride;
    const char* panel;
    int64_t panel_row_bytes, depth;
  };

  // The rows of a block whose end is still to come.
  struct End {
    char* sums;
    int64_t rows, width;
    Columns columns;
    float* y;
    int64_t y_row_stride;
    uint16_t* rounded;
    int64_t rounded_row_stride;
    Factors factors;  // where kRepairs

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

  // Vector j of row r; `before` is what y held.
  template <int kKind>
  [[gnu::always_inline]] static inline Vec end_vector(const End& end, int64_t r, int j, Vec before) {
    const char* sums = end.sums + r * kSumsRowBytes + j * 64;
    Vec total;
    if constexpr (kOfBytes<Format>) {
      const IntVec start = load(end.columns.start + j * kLanes);
      const IntVec sum = add(load(reinterpret_cast<const int32_t*>(sums)), start);
      total = Format::finish(sum, load(end.columns.scale + j * kLanes), end.columns, static_cast<int>(r));
    } else {
      total = load(reinterpret_cast<const float*>(sums));
      if constexpr (Format::kScaled) {
        total = Format::finish(total, load(end.columns.scale + j * kLanes), end.columns, static_cast<int>(r));
      }
    }
    if (kKind & kAccumulate) total = total + before;
    total = total + load(end.columns.bias + j * kLanes);
    if constexpr (Format::kCoarse) {
      return kKind & kGelu ? coarse_gelu(total) : total;
    } else {
      return kKind & kGelu ? gelu(total) : total;
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
    Vec v[2][2];
#pragma GCC unroll 2
    for (int r = 0; r < 2; ++r) {
#pragma GCC unroll 2
      for (int j = 0; j < 2; ++j) {
        const float* y = end.y + r * end.y_row_stride + j * kLanes;
        v[r][j] = end_vector<kKind>(end, r, j, kKind & kAccumulate ? load(y) : broadcast(0.0f));
      }
    }
#pragma GCC unroll 2
    for (int r = 0; r < 2; ++r) {
      if (kKind & kRounded) {
        store_pairs(end.rounded + r * end.rounded_row_stride, bfloat_pairs(v[r][0], v[r][1]));
      } else {
        store(end.y + r * end.y_row_stride, v[r][0]);
        store(end.y + r * end.y_row_stride + kLanes, v[r][1]);
      }
    }
    end.skip(2);
  }

  // For the twin: so many copies would keep the compiler busy for minutes.
  template <int kKind>
  [[gnu::noinline]] static void end_two_rows_apart(End& end) {
    end_two_rows<kKind>(end);
  }

  // A row of any width.
  template <int kKind>
  static void end_row(End& end) {
    if constexpr (kRepairs) check(end, 1, static_cast<int>(divide_up(end.width, static_cast<int64_t>(kLanes))));
    Vec v[2] = {broadcast(0.0f), broadcast(0.0f)};
    for_each_vector(end.width, [&](int64_t c, int lanes) {
      const Vec before = kKind & kAccumulate ? load_lanes(end.y + c, lanes) : broadcast(0.0f);
      v[c / kLanes] = end_vector<kKind>(end, 0, static_cast<int>(c / kLanes), before);
      if (!(kKind & kRounded)) store_lanes(end.y + c, v[c / kLanes], lanes);
    });
    if (kKind & kRounded) store_first_pairs(end.rounded, bfloat_pairs(v[0], v[1]), static_cast<int>(end.width));
    end.skip(1);
  }

  template <int kKind>
  static void finish_rows(End& end) {
    if (end.width == kPanelColumns) {
      while (end.rows >= 2) end_two_rows<kKind>(end);
    }
    while (end.rows > 0) end_row<kKind>(end);
  }

  template <int kKind, int kTall, int kWide>
  [[gnu::noinline]] static void multiply(MatrixTile& self, const Block<Format>& block, Lines* fetched) {
    // Where the upper tiles begin above the block, and the lower ones below its first row.
    const int64_t above = kTall == 1 ? least(block.rows_before, kTileSide - block.rows) : 0;
    const int64_t below = block.rows - kTileSide;
    const int64_t row_bytes = block.x_row_stride * static_cast<int64_t>(sizeof(Operand));
    const Operand* top = block.x - above * block.x_row_stride;
    const Operand* bottom = kTall == 2 ? block.x + below * block.x_row_stride : top;
    const char* panel = reinterpret_cast<const char*>(block.panel);
    constexpr int64_t kPanelRowBytes = kWide * 64;
    const int64_t whole = block.depth / kDepthStep, rest = block.depth % kDepthStep;

    End end = self.end_;
    // Two rows after each of the first products of a step, equally many in every step: all at once, in the first ones,
    // they would take longer than those steps' products, and nothing would run beside the last ones'.
    const int64_t pairs_a_step = divide_up(end.rows / 2, whole + (rest > 0) + (block.depth == 0));
    const auto between = [&](int product) __attribute__((always_inline)) {
      if (end.rows < 2 || product >= pairs_a_step) return;
      if constexpr (Tiles::kInstructions) {
        end_two_rows<kKind>(end);
      } else {
        end_two_rows_apart<kKind>(end);
      }
    };
    Tiles& tiles = self.tiles_;
    constexpr int64_t kStepBytes = kTileSide * kPanelRowBytes * Format::kPlanes;
    const auto step = [&](const Operand* from, const Operand* lower, int64_t from_row_bytes, int64_t plane_stride,
                          int64_t k) __attribute__((always_inline)) {
      if constexpr (Format::kPlanes == 1) {
        matrix_step<Format, kTall, kWide>(tiles, from, lower, from_row_bytes, panel + k * kStepBytes, kPanelRowBytes,
                                          between);
      } else {
        matrix_step_by_parts<Format, kTall, kWide>(tiles, from, lower, from_row_bytes, plane_stride,
                                                   panel + k * kStepBytes, kPanelRowBytes, between);
      }
    };
    zero_sums<kTall, kWide>(tiles);
    for (int64_t k = 0; k < whole; ++k) {
      for (int list = 0; list < kFetched; ++list) fetched[list].fetch_some(kLinesAStep * Format::kPlanes);
      step(top + k * kDepthStep, bottom + k * kDepthStep, row_bytes, block.x_plane_stride, k);
    }
    if (rest > 0) {  // what follows in memory may be NaN, which zero weights don't make 0
      alignas(64) Operand last[Format::kPlanes * kRows * kDepthStep] = {};
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
      step(last, last + kTileSide * kDepthStep, 64, kRows * kDepthStep, whole);
    }
    if (end.rows > 0) finish_rows<kKind>(end);

    char* sums = self.sums_[self.buffer_ ^= 1];
    store_sums<kTall, kWide>(tiles, sums, sums + (kTall == 2 ? below : 0) * kSumsRowBytes, kSumsRowBytes);
    self.end_ = {sums + above * kSumsRowBytes,
                 block.rows,
                 block.width,
                 block.columns,
                 block.y,
                 block.y_row_stride,
                 block.rounded,
                 block.rounded_row_stride,
                 {}};
    if (!block.columns.bias) self.end_.columns.bias = kNoBias;
    if constexpr (kRepairs) {
      self.end_.factors = {block.x, block.x_row_stride, block.x_plane_stride, panel, kPanelRowBytes, block.depth};
    }
  }

  static constexpr int kLinesAStep = 8;
  static constexpr float kNoBias[2 * kLanes] = {};

  Tiles tiles_;
  End end_ = {};
  int kind_ = 0, buffer_ = 0;
  alignas(64) char sums_[2][kRows * kSumsRowBytes];
};

}  // namespace
