#include "instruction_sets.h"

#include "cpu_features.h"

namespace squeezebert {

const std::vector<const KernelTable*>& usable_kernels() {
  static const std::vector<const KernelTable*> usable = [] {
    const CpuFeatures& cpu = cpu_features();
    const struct {
      bool supported;
      const KernelTable* (*table)();
    } best_first[] = {
#define BUILD(NAME, CPU) {CPU, NAME##_kernels},
#include "../isa/builds.inc"
#undef BUILD
    };
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
