// Linked in place of core/instruction_sets.cpp by emulated_amx.py: the same builds, and before them the one for AMX on
// the emulator, or its twin where the CPU lacks what isn't emulated.
#define usable_kernels usable_without_emulator
#define find_kernels find_without_emulator
#include "../core/instruction_sets.cpp"
#undef usable_kernels
#undef find_kernels

#include "amx_emulator.h"
#include "amx_twin_build.h"

namespace squeezebert {

const std::vector<const KernelTable*>& usable_kernels() {
  static const std::vector<const KernelTable*> usable = [] {
    std::vector<const KernelTable*> found = usable_without_emulator();
    if (find_without_emulator("avx512_amx")) return found;
    const bool all_but_tiles = find_without_emulator("avx512_bf16") != nullptr;
    if (all_but_tiles && test::prepare_amx() == test::Amx::emulated) {
      found.insert(found.begin(), avx512_amx_kernels());
    } else if (const KernelTable* twin = usable_amx_twin()) {
      found.insert(found.begin(), twin);
    }
    return found;
  }();
  return usable;
}

const KernelTable* find_kernels(const std::string& name) {
  for (const KernelTable* table : usable_kernels()) {
    if (name == table->name) return table;
  }
  return nullptr;
}

}  // namespace squeezebert
