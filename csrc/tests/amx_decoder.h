// The machine code of the tile instructions that the kernels use.
#pragma once
#include <cstdint>
#include <optional>

namespace squeezebert::test {

enum class TileOperation { configure, release, zero, load, store, multiply_add_bfloat16, multiply_add_int8 };

struct TileInstruction {
  TileOperation operation;
  int length = 0;                           // bytes
  int tile = 0, operands = 0, weights = 0;  // numbers of tiles
  uint64_t address = 0;                     // of the configuration, or of a tile's first row
  uint64_t row_stride = 0;                  // bytes, modulo 2^64
};

// Empty where other code stands. Reads no byte that the CPU wouldn't fetch. `registers`: rax, rcx, rdx, rbx, rsp, rbp,
// rsi, rdi, r8 to r15, as instructions count them.
std::optional<TileInstruction> decode_tile_instruction(const uint8_t* code, const uint64_t (&registers)[16]);

}  // namespace squeezebert::test
