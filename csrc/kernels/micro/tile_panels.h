// Panels of what a kernel has just made, and products with them, on tiles: what matrix_attention.h,
// matrix_gradients.h, matrix_packing.h and those by parts take. A step is 32 numbers, two vectors of what becomes them:
// in bfloat16 two rows of 16 words of two, by parts as many of each part. Included by the instruction-set builds alone.
#pragma once
#include "../transpose.h"
#include "matrix_tile.h"

namespace {

// A step is a vector of pairs, or Parts.
template <class Step>
constexpr int kPlanesOf = sizeof(Step) / sizeof(Vec);

inline Vec pairs_of(Vec step, int) { return step; }
template <int kParts>
inline Vec pairs_of(const Parts<kParts>& step, int plane) {
  return step.pairs[plane];
}

template <class Tiles>
class TilePanels {
 public:
  using Micro = MatrixTile<MatrixBfloat16, Tiles>;
  static constexpr int64_t kStep = Micro::kDepthStep, kPanel = Micro::kPanelColumns;
  static constexpr int64_t kQueries = Micro::kRows, kKeys = 256;  // of a block of scores
  static_assert(kStep == kPanel && kStep == 2 * kLanes,
                "a step of K, a panel's columns and two vectors are one number");

  // Rows of a product's second factor, transposed, to panels of columns. load(i, c): a step of row i, from its number
  // c. A row is words of two numbers; a panel has them as columns. Columns that a last vector lacks are 0.
  template <class Load>
  static void pack_columns(Load load, int64_t columns, int64_t depth, uint16_t* panels) {
    constexpr int kPlanes = kPlanesOf<decltype(load(0, 0))>;
    for (int64_t first = 0; first < columns; first += kLanes) {
      const int64_t begin = first / kPanel * kPanel, padded = padded_columns(least(kPanel, columns - begin));
      uint16_t* panel = panels + begin * depth * kPlanes + (first - begin) * 2;
      for (int64_t c = 0; c < depth; c += kStep) {
        Vec block[kPlanes][kLanes];
        for (int i = 0; i < kLanes; ++i) {
          if (first + i < columns) {
            const auto step = load(first + i, c);
            for (int p = 0; p < kPlanes; ++p) block[p][i] = pairs_of(step, p);
          } else {
            for (int p = 0; p < kPlanes; ++p) block[p][i] = broadcast(0.0f);
          }
        }
        for (int p = 0; p < kPlanes; ++p) {
          transpose_block(block[p]);
          uint16_t* to = panel + (c * kPlanes + p * kStep) * padded;
          for (int i = 0; i < kLanes; ++i) store_pairs(to + i * padded * 2, block[p][i]);
        }
      }
    }
  }

  // Rows [depth, columns] to panels: what `pack` makes of weights [columns, depth]. load(k, n): a step of row k, from
  // its number n, of which those past the last column don't count. Pairs of rows are words.
  template <class Load>
  static void pack_rows(Load load, int64_t depth, int64_t columns, uint16_t* panels) {
    constexpr int kPlanes = kPlanesOf<decltype(load(0, 0))>;
    for (int64_t k = 0; k < depth; k += 2) {
      for (int64_t n = 0; n < columns; n += kPanel) {
        const int64_t padded = padded_columns(least(kPanel, columns - n));
        const auto even = load(k, n), odd = load(k + 1, n);
        for (int p = 0; p < kPlanes; ++p) {
          uint16_t* to = panels + n * depth * kPlanes + (k / kStep * kStep * kPlanes + p * kStep + k % kStep) * padded;
          store_pairs(to, zip_first_pairs(pairs_of(even, p), pairs_of(odd, p)));
          if (padded > kLanes) store_pairs(to + 2 * kLanes, zip_second_pairs(pairs_of(even, p), pairs_of(odd, p)));
        }
      }
    }
  }

  // y (+)= x * panels. `depth` and `columns` are whole steps; rows of x up to whole tiles are read.
  void times(int64_t rows, const uint16_t* x, int64_t x_stride, int64_t depth, const uint16_t* panels, int64_t columns,
             bool accumulate, float* y, int64_t y_stride) {
    const auto run = rows > kTileSide ? multiply<2> : multiply<1>;
    run(tiles_, x, x_stride, depth, panels, columns, accumulate, y, y_stride);
  }

 private:
  template <int kTall>
  static void multiply(Tiles& tiles, const uint16_t* x, int64_t x_stride, int64_t depth, const uint16_t* panels,
                       int64_t columns, bool accumulate, float* y, int64_t y_stride) {
    for (int64_t n = 0; n < columns; n += kPanel) {
      const char* panel = reinterpret_cast<const char*>(panels + n * depth);
      char* top = reinterpret_cast<char*>(y + n);
      char* bottom = top + kTileSide * y_stride * 4;
      if (accumulate) {
        load_sums<kTall, 2>(tiles, top, bottom, y_stride * 4);
      } else {
        zero_sums<kTall, 2>(tiles);
      }
      for (int64_t k = 0; k < depth; k += kStep) {
        matrix_step<MatrixBfloat16, kTall, 2>(tiles, x + k, x + kTileSide * x_stride + k, x_stride * 2,
                                              panel + k / 2 * kPanel * 4, kPanel * 4, [](int) {});
      }
      store_sums<kTall, 2>(tiles, top, bottom, y_stride * 4);
    }
  }

  Tiles tiles_{static_cast<int>(kTileSide)};
};

}  // namespace
