#include "instruction_sets.h"

#include "cpu_features.h"

namespace squeezebert {

const std::vector<const KernelTable*>& usable_kernels() {
  static const std::vector<const KernelTable*> usable = [] {
    const CpuFeatures& cpu = cpu_features();
    const struct {
      bool supported;
      const KernelTable* (*table)();
    } best_first[] = {{cpu.avx512_bf16 && cpu.avx512_vnni, avx512_bf16_kernels},
                      {cpu.avx512_vnni, avx512_vnni_kernels},
                      {cpu.avx512, avx512_kernels},
                      {cpu.avx2_vnni, avx2_vnni_kernels},
                      {cpu.avx2, avx2_kernels},
                      {cpu.neon_dotprod, neon_dotprod_kernels},
                      {cpu.neon, neon_kernels},
                      {true, scalar_kernels}};
    std::vector<const KernelTable*> found;
    for (const auto& build : best_first) {
      const KernelTable* table = build.supported ? build.table() : nullptr;
      if (table) found.push_back(table);
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
