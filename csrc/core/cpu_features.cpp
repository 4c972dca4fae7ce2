#include "cpu_features.h"

#include <cstdint>

#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif

namespace squeezebert {
namespace {

#if defined(__x86_64__)

constexpr uint64_t kAvxState = 0x06;     // XCR0: SSE and AVX registers
constexpr uint64_t kAvx512State = 0xe6;  // and mask registers, upper halves, upper 16 registers

uint64_t saved_register_state() {
  uint32_t low = 0, high = 0;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (static_cast<uint64_t>(high) << 32) | low;
}

CpuFeatures detect() {
  CpuFeatures f;
  uint32_t a = 0, b = 0, c = 0, d = 0;
  const auto bit = [](uint32_t word, int n) { return ((word >> n) & 1u) != 0; };
  if (!__get_cpuid(1, &a, &b, &c, &d)) return f;
  const bool fma = bit(c, 12), osxsave = bit(c, 27), avx = bit(c, 28);
  if (!osxsave || !avx) return f;
  const uint64_t state = saved_register_state();
  if ((state & kAvxState) != kAvxState || !__get_cpuid_count(7, 0, &a, &b, &c, &d)) return f;
  f.avx2 = bit(b, 5) && fma;
  uint32_t a1 = 0, b1 = 0, c1 = 0, d1 = 0;
  __get_cpuid_count(7, 1, &a1, &b1, &c1, &d1);
  f.avx2_vnni = f.avx2 && bit(a1, 4);
  if ((state & kAvx512State) != kAvx512State) return f;
  f.avx512 = f.avx2 && bit(b, 16) && bit(b, 17) && bit(b, 30) && bit(b, 31);
  f.avx512_vnni = f.avx512 && bit(c, 11);
  f.avx512_bf16 = f.avx512 && bit(a1, 5);
  return f;
}

#elif defined(__aarch64__)

CpuFeatures detect() {
  CpuFeatures f;
  f.neon = true;  // part of the architecture
#if defined(__linux__)
  // Bits of the Linux AArch64 ABI, spelled out for C libraries whose headers are older than the features.
  const unsigned long hwcap = getauxval(AT_HWCAP), hwcap2 = getauxval(AT_HWCAP2);
  f.neon_dotprod = ((hwcap >> 20) & 1) != 0;
  f.neon_i8mm = ((hwcap2 >> 13) & 1) != 0;
  f.neon_bf16 = ((hwcap2 >> 14) & 1) != 0;
#endif
  return f;
}

#else

CpuFeatures detect() { return {}; }

#endif

}  // namespace

const CpuFeatures& cpu_features() {
  static const CpuFeatures features = detect();
  return features;
}

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
