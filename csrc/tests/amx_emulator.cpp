#include "amx_emulator.h"

#if defined(__x86_64__) && defined(__linux__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <cstdlib>
#include <cstring>

#include "../kernels/micro/amx_twin.h"
#include "amx_decoder.h"

namespace squeezebert::test {
namespace {

constexpr int kTiles = 8;

// The 64 bytes that ldtilecfg reads.
struct Configuration {
  uint8_t palette, start_row, reserved[14];
  uint16_t row_bytes[16];
  uint8_t rows[16];
};

// Everything zero: no tiles are configured.
struct Tiles {
  Configuration configuration;
  AmxTile tile[kTiles];
};
thread_local Tiles tiles;
std::atomic<int64_t> emulated{0};
struct sigaction before_emulator;

// Only what a signal handler may call.
void check(bool valid, const char* what) {
  if (valid) return;
  const char* words[] = {"AMX emulator: ", what, "\n"};
  for (const char* word : words) {
    if (write(STDERR_FILENO, word, std::strlen(word)) < 0) break;
  }
  std::abort();
}

void configure(const void* from) {
  Configuration c;
  std::memcpy(&c, from, sizeof c);
  check(c.palette <= 1, "ldtilecfg: unknown palette");
  tiles = {};
  if (c.palette == 0) return;
  for (const uint8_t byte : c.reserved) check(byte == 0, "ldtilecfg: reserved bytes aren't zero");
  check(c.start_row == 0, "ldtilecfg: a start row, which the emulator doesn't know");
  for (int i = 0; i < 16; ++i) {
    check(c.rows[i] <= 16 && c.row_bytes[i] <= 64, "ldtilecfg: a tile of more than 16 rows of 64 bytes");
    check((c.rows[i] == 0) == (c.row_bytes[i] == 0), "ldtilecfg: rows without bytes, or bytes without rows");
    check(i < kTiles || c.rows[i] == 0, "ldtilecfg: more than 8 tiles");
  }
  tiles.configuration = c;
}

struct Shape {
  int rows, row_bytes;
};

Shape shape_of(int tile) {
  check(tiles.configuration.palette != 0, "a tile instruction before ldtilecfg");
  check(tile < kTiles && tiles.configuration.rows[tile] > 0, "a tile that isn't configured");
  const Shape shape = {tiles.configuration.rows[tile], tiles.configuration.row_bytes[tile]};
  check(shape.row_bytes % 4 == 0, "a tile whose rows are no multiple of 4 bytes");
  return shape;
}

template <typename Product>
void multiply_add(const TileInstruction& i, Product product) {
  const Shape c = shape_of(i.tile), a = shape_of(i.operands), b = shape_of(i.weights);
  check(i.tile != i.operands && i.tile != i.weights && i.operands != i.weights, "a product of a tile with itself");
  check(c.rows == a.rows, "a product: sums and operands differ in rows");
  check(c.row_bytes == b.row_bytes, "a product: sums and weights differ in columns");
  check(a.row_bytes / 4 == b.rows, "a product: operands and weights differ in depth");
  product(tiles.tile[i.tile], tiles.tile[i.operands], tiles.tile[i.weights], c.rows, c.row_bytes / 4, b.rows);
}

void execute(const TileInstruction& i) {
  const auto row = [&i](int m) { return reinterpret_cast<char*>(i.address + static_cast<uint64_t>(m) * i.row_stride); };
  switch (i.operation) {
    case TileOperation::configure:
      return configure(row(0));
    case TileOperation::release:
      tiles = {};
      return;
    case TileOperation::zero:
      shape_of(i.tile);
      tiles.tile[i.tile] = {};
      return;
    case TileOperation::load: {
      const Shape shape = shape_of(i.tile);
      tiles.tile[i.tile] = {};
      for (int m = 0; m < shape.rows; ++m) {
        std::memcpy(tiles.tile[i.tile].row[m], row(m), static_cast<std::size_t>(shape.row_bytes));
      }
      return;
    }
    case TileOperation::store: {
      const Shape shape = shape_of(i.tile);
      for (int m = 0; m < shape.rows; ++m) {
        std::memcpy(row(m), tiles.tile[i.tile].row[m], static_cast<std::size_t>(shape.row_bytes));
      }
      return;
    }
    case TileOperation::multiply_add_bfloat16:
      return multiply_add(i, amx_multiply_add_bfloat16);
    case TileOperation::multiply_add_int8:
      return multiply_add(i, amx_multiply_add_int8);
  }
}

void on_illegal_instruction(int, siginfo_t*, void* context) {
  greg_t* saved = static_cast<ucontext_t*>(context)->uc_mcontext.gregs;
  constexpr int kOrder[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                              REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};
  uint64_t registers[16];
  for (int i = 0; i < 16; ++i) registers[i] = static_cast<uint64_t>(saved[kOrder[i]]);

  // Tile instructions come in rows, and a signal costs more than most of them.
  int64_t count = 0;
  while (const auto instruction =
             decode_tile_instruction(reinterpret_cast<const uint8_t*>(saved[REG_RIP]), registers)) {
    execute(*instruction);
    saved[REG_RIP] += instruction->length;
    ++count;
  }
  emulated.fetch_add(count, std::memory_order_relaxed);
  // Another instruction: it runs again when this returns, and meets whoever cared before.
  if (count == 0) sigaction(SIGILL, &before_emulator, nullptr);
}

bool cpu_has_amx() {
  uint32_t a = 0, b = 0, c = 0, d = 0;
  constexpr uint32_t kTileBfloat16 = 1u << 22, kTile = 1u << 24, kTileInt8 = 1u << 25;
  constexpr uint32_t kAll = kTileBfloat16 | kTile | kTileInt8;
  return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d & kAll) == kAll;
}

bool kernel_allows_tiles() {
  constexpr long kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, for older headers
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

}  // namespace

Amx prepare_amx() {
  static const bool has_amx = cpu_has_amx();
  if (has_amx) return kernel_allows_tiles() ? Amx::instructions : Amx::unavailable;
  struct sigaction now = {}, ours = {};
  sigaction(SIGILL, nullptr, &now);
  if (now.sa_sigaction == on_illegal_instruction) return Amx::emulated;
  before_emulator = now;
  ours.sa_sigaction = on_illegal_instruction;
  ours.sa_flags = SA_SIGINFO;
  sigemptyset(&ours.sa_mask);
  return sigaction(SIGILL, &ours, nullptr) == 0 ? Amx::emulated : Amx::unavailable;
}

int64_t emulated_amx_instructions() { return emulated.load(); }

}  // namespace squeezebert::test

#else

namespace squeezebert::test {

Amx prepare_amx() { return Amx::unavailable; }
int64_t emulated_amx_instructions() { return 0; }

}  // namespace squeezebert::test

#endif
