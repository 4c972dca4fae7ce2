#include "cpu_features.h"

#include <cstddef>
#include <cstdint>

#if defined(__x86_64__)
#include <cpuid.h>
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#endif
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#elif defined(__aarch64__) && defined(__APPLE__)
#include <sys/sysctl.h>
#endif

namespace squeezebert {
namespace {

struct Detected {
  CpuFeatures features;
  std::string amx_refusal;
};

#if defined(__x86_64__)

constexpr uint64_t kAvxState = 0x06;      // XCR0: SSE and AVX registers
constexpr uint64_t kAvx512State = 0xe6;   // and mask registers, upper halves, upper 16 registers
constexpr uint64_t kTileState = 0x60000;  // configuration and tiles

uint64_t saved_register_state() {
  uint32_t low = 0, high = 0;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (static_cast<uint64_t>(high) << 32) | low;
}

// Tiles are 8 KB of every thread's state: Linux (5.16 and later) gives them to a process that asks, and may refuse.
std::string refusal_of_tiles(uint64_t state) {
  if ((state & kTileState) != kTileState) return "the operating system doesn't save the tile registers";
#if defined(__linux__)
  constexpr long kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  if (syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0) return "";
  // The kernel says ENOSPC, "No space left on device", of stacks on which a signal's frame wouldn't fit with tiles.
  const std::string reason = errno == ENOSPC ? "a thread's signal stack is too small for them" : std::strerror(errno);
  return "the kernel doesn't let this process use the tile registers: " + reason;
#else
  return "how to ask this operating system for the tile registers is not known";
#endif
}

Detected detect() {
  Detected detected;
  CpuFeatures& f = detected.features;
  uint32_t a = 0, b = 0, c = 0, d = 0;
  const auto bit = [](uint32_t word, int n) { return ((word >> n) & 1u) != 0; };
  // "GenuineIntel", in the order in which CPUID spreads it over three registers.
  const bool intel = __get_cpuid(0, &a, &b, &c, &d) && b == 0x756e6547 && d == 0x49656e69 && c == 0x6c65746e;
  if (!__get_cpuid(1, &a, &b, &c, &d)) return detected;
  const bool fma = bit(c, 12), osxsave = bit(c, 27), avx = bit(c, 28);
  if (!osxsave || !avx) return detected;
  const uint64_t state = saved_register_state();
  if ((state & kAvxState) != kAvxState || !__get_cpuid_count(7, 0, &a, &b, &c, &d)) return detected;
  f.avx2 = bit(b, 5) && fma;
  if (bit(d, 22) && bit(d, 24) && bit(d, 25)) {
    detected.amx_refusal = refusal_of_tiles(state);
    f.amx = detected.amx_refusal.empty();
  }
  uint32_t a1 = 0, b1 = 0, c1 = 0, d1 = 0;
  __get_cpuid_count(7, 1, &a1, &b1, &c1, &d1);
  f.avx2_vnni = f.avx2 && bit(a1, 4);
  if ((state & kAvx512State) != kAvx512State) return detected;
  f.avx512 = f.avx2 && bit(b, 16) && bit(b, 17) && bit(b, 30) && bit(b, 31);
  f.avx512_vnni = f.avx512 && bit(c, 11);
  f.avx512_bf16 = f.avx512 && bit(a1, 5);
  f.slow_bf16 = f.avx512_bf16 && intel;
  return detected;
}

#elif defined(__aarch64__)

#if defined(__APPLE__)
// Such names are known since macOS 12 and iOS 15. What an older one doesn't know counts as absent.
bool has(const char* feature) {
  int value = 0;
  std::size_t size = sizeof value;
  return sysctlbyname(feature, &value, &size, nullptr, 0) == 0 && value != 0;
}
#endif

Detected detect() {
  Detected detected;
  CpuFeatures& f = detected.features;
  f.neon = true;  // part of the architecture
#if defined(__linux__)
  // Bits of the Linux AArch64 ABI, Android's too, spelled out for C libraries whose headers are older than the
  // features.
  const unsigned long hwcap = getauxval(AT_HWCAP), hwcap2 = getauxval(AT_HWCAP2);
  f.neon_dotprod = ((hwcap >> 20) & 1) != 0;
  f.neon_i8mm = ((hwcap2 >> 13) & 1) != 0;
  f.neon_bf16 = ((hwcap2 >> 14) & 1) != 0;
#elif defined(__APPLE__)
  f.neon_dotprod = has("hw.optional.arm.FEAT_DotProd");
  f.neon_i8mm = has("hw.optional.arm.FEAT_I8MM");
  f.neon_bf16 = has("hw.optional.arm.FEAT_BF16");
#endif
  return detected;
}

#else

Detected detect() { return {}; }

#endif

const Detected& detected() {
  static const Detected once = detect();
  return once;
}

}  // namespace

const CpuFeatures& cpu_features() { return detected().features; }

const std::string& amx_refusal() { return detected().amx_refusal; }

std::vector<std::string> cpu_feature_names() {
  const CpuFeatures& f = cpu_features();
  const struct {
    bool present;
    const char* name;
  } all[] = {{f.avx2, "avx2"},
             {f.avx2_vnni, "avx2_vnni"},
             {f.avx512, "avx512"},
             {f.avx512_vnni, "avx512_vnni"},
             {f.avx512_bf16, "avx512_bf16"},
             {f.amx, "amx"},
             {f.neon, "neon"},
             {f.neon_dotprod, "neon_dotprod"},
             {f.neon_i8mm, "neon_i8mm"},
             {f.neon_bf16, "neon_bf16"}};
  std::vector<std::string> names;
  for (const auto& feature : all) {
    if (feature.present) names.emplace_back(feature.name);
  }
  return names;
}

}  // namespace squeezebert
