// What vector instructions cost alone and beside products on tiles (AMX), on one core. benchmarks/beside_tiles.py
// compiles and runs it. Each line: what, nanoseconds alone, nanoseconds beside products.
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace {

constexpr int kChains = 12, kInstructions = 192, kIterations = 500, kRounds = 10000;

// The least of many rounds: on a shared machine the others had company.
template <class Work>
double least_ns(Work work) {
  double least = 1e9;
  for (int round = 0; round < kRounds; ++round) {
    const auto begin = std::chrono::steady_clock::now();
    work();
    const std::chrono::duration<double, std::nano> taken = std::chrono::steady_clock::now() - begin;
    least = std::min(least, taken.count());
  }
  return least;
}

void products() {
  __asm__ volatile(
      "tdpbf16ps %%tmm6, %%tmm4, %%tmm0\n\ttdpbf16ps %%tmm7, %%tmm4, %%tmm1\n\t"
      "tdpbf16ps %%tmm6, %%tmm5, %%tmm2\n\ttdpbf16ps %%tmm7, %%tmm5, %%tmm3"
      :
      :);
}

// `instruction(v, w)` on chains that don't depend on each other, once with four products in as many instructions as
// take longer than those.
template <bool kBeside, class Instruction>
double nanoseconds(Instruction instruction) {
  __m512 v[kChains];
  for (int i = 0; i < kChains; ++i) v[i] = _mm512_set1_ps(static_cast<float>(i));
  const __m512 w = _mm512_set1_ps(0.5f);
  const double taken = least_ns([&] {
    for (int n = 0; n < kIterations; ++n) {
      if (kBeside) products();
#pragma GCC unroll 192
      for (int i = 0; i < kInstructions; ++i) instruction(v[i % kChains], w);
    }
  });
  return taken / kIterations / kInstructions;
}

template <class Instruction>
void print(const char* what, Instruction instruction) {
  const double alone = nanoseconds<false>(instruction), beside = nanoseconds<true>(instruction);
  std::printf("%s,%.4f,%.4f\n", what, alone, beside);
}

void configure() {
  constexpr long kPermission = 0x1023, kTileData = 18;  // arch_prctl: ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  if (syscall(SYS_arch_prctl, kPermission, kTileData) != 0) {
    std::fprintf(stderr, "the kernel doesn't let this process use the tile registers\n");
    std::exit(1);
  }
  alignas(64) uint8_t config[64] = {1};
  for (int tile = 0; tile < 8; ++tile) {
    config[16 + 2 * tile] = 64;
    config[48 + tile] = 16;
  }
  __asm__ volatile("ldtilecfg %0" : : "m"(config));
}

double product_ns(uint16_t number) {
  alignas(64) uint16_t tile[512];
  std::fill(tile, tile + 512, number);
  const long stride = 64;
  __asm__ volatile(
      "tileloadd (%0,%1), %%tmm4\n\ttileloadd (%0,%1), %%tmm5\n\t"
      "tileloadd (%0,%1), %%tmm6\n\ttileloadd (%0,%1), %%tmm7"
      :
      : "r"(tile), "r"(stride)
      : "memory");
  return least_ns([] {
           for (int n = 0; n < 10 * kIterations; ++n) products();
         }) /
         (40 * kIterations);
}

}  // namespace

int main() {
  configure();
  std::printf("product of tiles of zeros,%.4f,\n", product_ns(0));
  std::printf("product of tiles of ones,%.4f,\n", product_ns(0x3f80));
  print("multiply-add", [](__m512& v, __m512 w) { __asm__ volatile("vfmadd213ps %1, %1, %0" : "+v"(v) : "v"(w)); });
  print("multiplication", [](__m512& v, __m512 w) { __asm__ volatile("vmulps %1, %0, %0" : "+v"(v) : "v"(w)); });
  print("maximum", [](__m512& v, __m512 w) { __asm__ volatile("vmaxps %1, %0, %0" : "+v"(v) : "v"(w)); });
  print("addition", [](__m512& v, __m512 w) { __asm__ volatile("vaddps %1, %0, %0" : "+v"(v) : "v"(w)); });
  print("addition of integers", [](__m512& v, __m512 w) { __asm__ volatile("vpaddd %1, %0, %0" : "+v"(v) : "v"(w)); });
  print("look-up in two vectors", [](__m512& v, __m512 w) {
    __asm__ volatile("vpermt2ps %1, %1, %0" : "+v"(v) : "v"(w));
  });
  __asm__ volatile("tilerelease");
}
