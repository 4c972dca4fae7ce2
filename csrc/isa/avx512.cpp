// Compiled with the flags that build_flags.py gives it; empty where they don't apply.
#include "../kernels/kernel_table.h"

#if defined(__AVX512F__)
#include "../simd/avx512.h"
#include "export_table.h"

SQUEEZEBERT_EXPORT_TABLE(avx512, false, false)
#else
const squeezebert::KernelTable* squeezebert::avx512_kernels() { return nullptr; }
#endif
