// The tile instructions of micro/amx_instructions.h in plain C++: the same interface and, as Intel documents them, the
// same bits. Kernels on tiles run on it where no CPU has AMX, and the instructions are tested against it.
//
// A tile is 16 rows of 64 bytes. C += A B:
//
//           A: operands              B: packed weights               C: sums
//   bf16    [rows][32]               [16 k pairs][16 columns][2]     [rows][16] float32
//   int8    [rows][64], unsigned     [16 k fours][16 columns][4]     [rows][16] int32
//
// Included by instruction-set builds and by tests. Needs no instruction set and nothing of the C++ library.
#pragma once
#include <cstdint>

namespace {

struct AmxTile {
  alignas(64) unsigned char row[16][64];
};

// A subnormal input counts as zero, of its sign.
inline float amx_operand(uint32_t bits) {
  if ((bits & 0x7f800000) == 0) bits &= 0x80000000;
  float value;
  __builtin_memcpy(&value, &bits, sizeof value);
  return value;
}

// A sum, computed in double, as the instruction's float32 sum: rounded once, to nearest even, and zero of its sign
// where a float32 of unbounded exponent would be below 2^-126.
//
// The double's own rounding does no harm. It is of x + y, where both have 24 significant bits at most: rounding such a
// sum to 50 bits or more first (a double has 53) never changes how it rounds to 24 (Figueroa, 1995). Products of two
// bfloat16 are such numbers, too: they have 16 bits and lie between 2^-252 and 2^256, so a double holds them exactly.
inline float amx_rounded(double sum) {
  constexpr double kRoundsToNormal = 0x1p-126 - 0x1p-151;
  // Zero times the sum: of its sign, and no infinity comes here.
  return static_cast<float>(__builtin_fabs(sum) < kRoundsToNormal ? sum * 0.0 : sum);
}

// Of `rows` rows and `columns` columns of C, over `pairs` pairs of k (all 16 where a tile is full). tdpbf16ps:
//
//   even = 0; for each k pair: even = fma(a[2k], b[2k][n], even);  odd the same of a[2k + 1], b[2k + 1][n]
//   c[n] += even + odd
//
// Every step is rounded, subnormal inputs and results are zeros, and MXCSR is neither read nor written. Whether a step
// is fused shows only where the product alone is no float32: then nothing but the sum is rounded or overflows.
// Intel doesn't say which NaN comes out of two, nor that tininess is judged after rounding; the twin gives the CPU's
// default NaN, and judges as all of SSE and AVX does.
inline void amx_multiply_add_bfloat16(AmxTile& c, const AmxTile& a, const AmxTile& b, int rows = 16, int columns = 16,
                                      int pairs = 16) {
  float weights[16][32];
  for (int k = 0; k < pairs; ++k) {
    uint16_t halves[32];
    __builtin_memcpy(halves, b.row[k], sizeof halves);
    for (int n = 0; n < 32; ++n) weights[k][n] = amx_operand(static_cast<uint32_t>(halves[n]) << 16);
  }
  for (int m = 0; m < rows; ++m) {
    uint16_t halves[32];
    __builtin_memcpy(halves, a.row[m], sizeof halves);
    float sums[32] = {};  // even and odd in turn, as the weights are
    for (int k = 0; k < pairs; ++k) {
      const double even = amx_operand(static_cast<uint32_t>(halves[2 * k]) << 16);
      const double odd = amx_operand(static_cast<uint32_t>(halves[2 * k + 1]) << 16);
      double operands[32];
      for (int n = 0; n < 32; n += 2) {
        operands[n] = even;
        operands[n + 1] = odd;
      }
      for (int n = 0; n < 32; ++n) sums[n] = amx_rounded(operands[n] * weights[k][n] + sums[n]);
    }
    for (int n = 0; n < columns; ++n) {
      uint32_t bits;
      __builtin_memcpy(&bits, c.row[m] + 4 * n, sizeof bits);
      const double both = amx_rounded(static_cast<double>(sums[2 * n]) + sums[2 * n + 1]);
      const float sum = amx_rounded(amx_operand(bits) + both);
      __builtin_memcpy(&bits, &sum, sizeof bits);
      if (sum != sum) bits = 0xffc00000;
      __builtin_memcpy(c.row[m] + 4 * n, &bits, sizeof bits);
    }
  }
}

// tdpbusd: A unsigned, B signed. Sums in int32 wrap.
inline void amx_multiply_add_int8(AmxTile& c, const AmxTile& a, const AmxTile& b, int rows = 16, int columns = 16,
                                  int fours = 16) {
  for (int m = 0; m < rows; ++m) {
    uint32_t sums[16];
    __builtin_memcpy(sums, c.row[m], sizeof sums);
    for (int k = 0; k < fours; ++k) {
      const unsigned char* operands = a.row[m] + 4 * k;
      int8_t weights[64];
      __builtin_memcpy(weights, b.row[k], sizeof weights);
      for (int n = 0; n < 16; ++n) {
        int32_t sum = 0;
        for (int i = 0; i < 4; ++i) sum += operands[i] * weights[4 * n + i];
        sums[n] += static_cast<uint32_t>(sum);
      }
    }
    __builtin_memcpy(c.row[m], sums, static_cast<unsigned>(columns) * sizeof(uint32_t));
  }
}

struct AmxTwin {
  static constexpr bool kInstructions = false;

  explicit AmxTwin(int rows) : rows_(rows), tiles_() {}
  AmxTwin(const AmxTwin&) = delete;
  AmxTwin& operator=(const AmxTwin&) = delete;

  template <int kTile>
  void zero() {
    tiles_[kTile] = {};
  }
  // Rows that a tile doesn't have are zero, and neither read nor written.
  template <int kTile>
  void load(const void* first, int64_t row_stride) {
    tiles_[kTile] = {};
    const char* row = static_cast<const char*>(first);
    for (int m = 0; m < rows_of(kTile); ++m, row += row_stride) __builtin_memcpy(tiles_[kTile].row[m], row, 64);
  }
  template <int kTile>
  void store(void* first, int64_t row_stride) {
    char* row = static_cast<char*>(first);
    for (int m = 0; m < rows_of(kTile); ++m, row += row_stride) __builtin_memcpy(row, tiles_[kTile].row[m], 64);
  }
  template <int kC, int kA, int kB>
  void multiply_add_bfloat16() {
    static_assert(kC < 4 && kA / 2 == 2 && kB / 2 == 3, "sums, operands, weights");
    amx_multiply_add_bfloat16(tiles_[kC], tiles_[kA], tiles_[kB], rows_);
  }
  template <int kC, int kA, int kB>
  void multiply_add_int8() {
    static_assert(kC < 4 && kA / 2 == 2 && kB / 2 == 3, "sums, operands, weights");
    amx_multiply_add_int8(tiles_[kC], tiles_[kA], tiles_[kB], rows_);
  }

 private:
  int rows_of(int tile) const { return tile < 6 ? rows_ : 16; }

  int rows_;
  AmxTile tiles_[8];
};

}  // namespace
