#include "amx_decoder.h"

#include <cstring>

namespace squeezebert::test {
namespace {

// Bytes of an instruction:
//
//   c4   R X B mmmmm   W vvvv L pp   opcode   mod reg rm   [scale index base]   [displacement: 1 or 4]
//
// R, X, B and vvvv are inverted; R, X and B are the fourth bits of reg, index, and base (or rm).
struct Vex {
  bool r, x, b;
  int map, v, prefix;  // prefix: 0 none, 1 66, 2 f3, 3 f2
  bool wide;           // W or L, which no tile instruction sets
  int opcode, mod, reg, rm;
};
constexpr int kNone = 0, k66 = 1, kF3 = 2, kF2 = 3;
constexpr int kBeforeMemory = 5;  // bytes

Vex fields(const uint8_t* code) {
  Vex vex{};
  vex.r = !(code[1] & 0x80);
  vex.x = !(code[1] & 0x40);
  vex.b = !(code[1] & 0x20);
  vex.map = code[1] & 0x1f;
  vex.wide = (code[2] & 0x84) != 0;
  vex.v = (~code[2] >> 3) & 15;
  vex.prefix = code[2] & 3;
  vex.opcode = code[3];
  vex.mod = code[4] >> 6;
  vex.reg = (code[4] >> 3) & 7;
  vex.rm = code[4] & 7;
  return vex;
}

bool is_tile_opcode(const uint8_t* code) {
  // One after the other: what isn't an instruction of this kind may end before the fifth byte.
  if (code[0] != 0xc4 || (code[1] & 0x1f) != 2) return false;
  return code[3] == 0x49 || code[3] == 0x4b || code[3] == 0x5c || code[3] == 0x5e;
}

uint64_t displacement(const uint8_t* at, int bytes) {
  int8_t narrow;
  int32_t wide;
  if (bytes == 0) return 0;
  std::memcpy(&narrow, at, sizeof narrow);
  if (bytes == 1) return static_cast<uint64_t>(static_cast<int64_t>(narrow));
  std::memcpy(&wide, at, sizeof wide);
  return static_cast<uint64_t>(static_cast<int64_t>(wide));
}

// base + displacement is the first row's address, index * scale the stride.
void decode_memory(const uint8_t* code, const Vex& vex, const uint64_t (&registers)[16], TileInstruction& instruction) {
  int length = kBeforeMemory;
  int base = vex.rm;
  if (vex.rm == 4) {
    const uint8_t sib = code[length++];
    base = sib & 7;
    const int index = ((sib >> 3) & 7) | (vex.x ? 8 : 0);
    if (index != 4) instruction.row_stride = registers[index] << (sib >> 6);
  }
  const bool no_base = vex.mod == 0 && base == 5;
  const int displacement_bytes = no_base || vex.mod == 2 ? 4 : vex.mod;
  instruction.address = displacement(code + length, displacement_bytes);
  length += displacement_bytes;
  if (!no_base) {
    instruction.address += registers[base | (vex.b ? 8 : 0)];
  } else if (vex.rm == 5) {
    instruction.address += reinterpret_cast<uint64_t>(code) + static_cast<uint64_t>(length);
  }
  instruction.length = length;
}

}  // namespace

std::optional<TileInstruction> decode_tile_instruction(const uint8_t* code, const uint64_t (&registers)[16]) {
  if (!is_tile_opcode(code)) return {};
  const Vex vex = fields(code);
  const bool memory = vex.mod != 3;
  if (vex.wide) return {};

  TileInstruction instruction{};
  instruction.length = kBeforeMemory;
  // A number of 8 or more is no tile's; whoever runs the instruction says so.
  instruction.tile = vex.reg | (vex.r ? 8 : 0);
  if (vex.opcode == 0x5c || vex.opcode == 0x5e) {
    const bool bfloat16 = vex.opcode == 0x5c;
    if (memory || vex.prefix != (bfloat16 ? kF3 : k66)) return {};
    instruction.operation = bfloat16 ? TileOperation::multiply_add_bfloat16 : TileOperation::multiply_add_int8;
    instruction.operands = vex.rm | (vex.b ? 8 : 0);
    instruction.weights = vex.v;
    return instruction;
  }
  if (vex.v != 0) return {};
  if (vex.opcode == 0x4b) {
    // With 66: tileloaddt1, which says that the tile needn't stay in the caches.
    if (!memory || vex.rm != 4 || vex.prefix == kNone) return {};
    instruction.operation = vex.prefix == kF3 ? TileOperation::store : TileOperation::load;
    decode_memory(code, vex, registers, instruction);
    return instruction;
  }
  if (memory) {
    if (vex.prefix != kNone || vex.reg != 0) return {};
    instruction.operation = TileOperation::configure;
    decode_memory(code, vex, registers, instruction);
    instruction.address += instruction.row_stride;  // no rows here: the index is part of an ordinary address
    instruction.row_stride = 0;
    return instruction;
  }
  if (vex.rm != 0) return {};
  if (vex.prefix == kF2) {
    instruction.operation = TileOperation::zero;
    return instruction;
  }
  if (vex.prefix != kNone || vex.reg != 0) return {};
  instruction.operation = TileOperation::release;
  return instruction;
}

}  // namespace squeezebert::test
