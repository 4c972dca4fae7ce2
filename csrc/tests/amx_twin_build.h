// A build that only tests have; see amx_twin_build.cpp.
#pragma once
#include "../core/cpu_features.h"
#include "../kernels/kernel_table.h"

namespace squeezebert {

const KernelTable* amx_twin_kernels();

// The same, or null where the CPU lacks AVX2, or the instructions of AArch64.
inline const KernelTable* usable_amx_twin() {
  return cpu_features().avx2 || cpu_features().neon ? amx_twin_kernels() : nullptr;
}

}  // namespace squeezebert
