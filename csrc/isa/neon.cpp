// Compiled with the flags that build_flags.py gives it; empty where they don't apply.
#include "../kernels/kernel_table.h"

#if defined(__aarch64__)
#include "../simd/neon.h"
#include "export_table.h"

SQUEEZEBERT_EXPORT_TABLE(neon, false, false)
#else
const squeezebert::KernelTable* squeezebert::neon_kernels() { return nullptr; }
#endif
