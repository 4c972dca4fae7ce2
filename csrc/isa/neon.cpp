// Compiled with the flags that build_flags.py gives it; empty where they don't apply.
#include "../kernels/kernel_table.h"

#ifdef __aarch64__
#include "../simd/neon.h"
#include "export_table.h"

SQUEEZEBERT_EXPORT_TABLE(neon)
#else
const squeezebert::KernelTable* squeezebert::neon_kernels() { return nullptr; }
#endif
