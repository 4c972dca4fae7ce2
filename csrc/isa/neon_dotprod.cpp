// Compiled with the flags that build_flags.py gives it; empty where they don't apply.
#include "../kernels/kernel_table.h"

#if defined(__ARM_FEATURE_DOTPROD)
#include "../simd/neon.h"
#include "export_table.h"

SQUEEZEBERT_EXPORT_TABLE(neon_dotprod, false, true)
#else
const squeezebert::KernelTable* squeezebert::neon_dotprod_kernels() { return nullptr; }
#endif
