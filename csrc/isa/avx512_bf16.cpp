// Compiled with the flags that build_flags.py gives it; empty where they don't apply.
#include "../kernels/kernel_table.h"

#if defined(__AVX512BF16__)
#include "../simd/avx512.h"
#include "export_table.h"

SQUEEZEBERT_EXPORT_TABLE(avx512_bf16, true, true)
#else
const squeezebert::KernelTable* squeezebert::avx512_bf16_kernels() { return nullptr; }
#endif
