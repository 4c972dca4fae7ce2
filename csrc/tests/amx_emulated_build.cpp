#include "amx_emulated_build.h"

#include "amx_emulator.h"

namespace squeezebert {

[[gnu::weak]] const KernelTable* avx512_amx_kernels();  // null where that build isn't linked

namespace test {

const KernelTable* emulated_amx_kernels() {
  const bool all_but_tiles = avx512_amx_kernels && find_kernels("avx512_bf16");
  return all_but_tiles && prepare_amx() == Amx::emulated ? avx512_amx_kernels() : nullptr;
}

}  // namespace test
}  // namespace squeezebert
