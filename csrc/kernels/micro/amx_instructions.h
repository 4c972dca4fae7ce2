// Intel's tile registers (AMX), one function for each instruction that the kernels use. Included by the instruction-set
// builds alone, x86-64 alone. micro/amx_twin.h has the same interface in plain C++, and says what each function
// computes.
//
// Assembly instead of intrinsics: GCC 12 believes that `_tile_loadconfig` reads 8 bytes of the configuration, and drops
// the stores of the other 56.
//
// What a compiler may reorder:
// - Every function is a volatile statement, so they stay in the order of the source among themselves. No register
//   operand tells the compiler of a tile, and none has to.
// - Loads and stores of tiles clobber "memory": what C++ wrote before is in memory when a tile is loaded, and what it
//   reads after a tile's store comes from memory.
// - zero and the products touch no memory and say so. The language lets other code move across them. GCC's scheduler
//   doesn't: a volatile statement ends what it reorders. Work that shall run beside products (another block's
//   epilogue) has to stand between them in the source. Clang may move arithmetic further, but not other volatile
//   statements.
#pragma once
#include <cstdint>

namespace {

struct AmxInstructions {
  static constexpr bool kInstructions = true;

  // `rows`, 1 to 16, of the tiles of sums (0 to 3) and of operands (4 and 5). Weights (6 and 7) have 16. All tiles are
  // zero then.
  explicit AmxInstructions(int rows) {
    struct {
      uint8_t palette, start_row, reserved[14];
      uint16_t row_bytes[16];
      uint8_t rows[16];
    } config = {};
    static_assert(sizeof config == 64, "as the instruction reads it");
    config.palette = 1;
    for (int tile = 0; tile < 8; ++tile) {
      config.row_bytes[tile] = 64;
      config.rows[tile] = static_cast<uint8_t>(tile < 6 ? rows : 16);
    }
    __asm__ volatile("ldtilecfg %0" : : "m"(config));
  }
  ~AmxInstructions() { __asm__ volatile("tilerelease"); }
  AmxInstructions(const AmxInstructions&) = delete;
  AmxInstructions& operator=(const AmxInstructions&) = delete;

  template <int kTile>
  [[gnu::always_inline]] inline void zero() {
    __asm__ volatile("tilezero %%tmm%c0" : : "i"(kTile));
  }
  template <int kTile>
  [[gnu::always_inline]] inline void load(const void* first, int64_t row_stride) {
    __asm__ volatile("tileloadd (%0,%1), %%tmm%c2" : : "r"(first), "r"(row_stride), "i"(kTile) : "memory");
  }
  template <int kTile>
  [[gnu::always_inline]] inline void store(void* first, int64_t row_stride) {
    __asm__ volatile("tilestored %%tmm%c2, (%0,%1)" : : "r"(first), "r"(row_stride), "i"(kTile) : "memory");
  }
  template <int kC, int kA, int kB>
  [[gnu::always_inline]] inline void multiply_add_bfloat16() {
    __asm__ volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(kC), "i"(kA), "i"(kB));
  }
  template <int kC, int kA, int kB>
  [[gnu::always_inline]] inline void multiply_add_int8() {
    __asm__ volatile("tdpbusd %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(kC), "i"(kA), "i"(kB));
  }
};

}  // namespace
