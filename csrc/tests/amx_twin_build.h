// A build that only tests have; see amx_twin_build.cpp.
#pragma once
#include "../kernels/kernel_table.h"

namespace squeezebert {

// Null where the compiler or the CPU's architecture doesn't have its vectors; whether this CPU has them is another
// matter.
const KernelTable* amx_twin_kernels();

}  // namespace squeezebert
