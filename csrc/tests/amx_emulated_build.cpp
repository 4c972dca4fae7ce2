#include "amx_emulated_build.h"

#include "amx_emulator.h"

namespace squeezebert::test {

const KernelTable* emulated_amx_kernels() {
  const bool all_but_tiles = find_kernels("avx512_bf16") != nullptr;
  return all_but_tiles && prepare_amx() == Amx::emulated ? avx512_amx_kernels() : nullptr;
}

}  // namespace squeezebert::test
