// Which builds of the kernels this machine can run.
#pragma once
#include <string>
#include <vector>

#include "../kernels/kernel_table.h"

namespace squeezebert {

// The builds that are in this binary and that the CPU and the operating system support, best first. Never empty.
const std::vector<const KernelTable*>& usable_kernels();

// The build of that name, or null when it is not usable here.
const KernelTable* find_kernels(const std::string& name);

}  // namespace squeezebert
