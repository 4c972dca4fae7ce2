// Compiled with the flags that build_flags.py gives it; empty where they don't apply.
#include "../kernels/kernel_table.h"

#if defined(__AVX2__)
#include "../simd/avx2.h"
#include "export_table.h"

SQUEEZEBERT_EXPORT_TABLE(avx2, false, false)
#else
const squeezebert::KernelTable* squeezebert::avx2_kernels() { return nullptr; }
#endif
