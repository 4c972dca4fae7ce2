// Compiled with the flags that build_flags.py gives it; empty where they don't apply.
#include "../kernels/kernel_table.h"

#if defined(__AVXVNNI__)
#include "../simd/avx2.h"
#include "export_table.h"

SQUEEZEBERT_EXPORT_TABLE(avx2_vnni, false, true)
#else
const squeezebert::KernelTable* squeezebert::avx2_vnni_kernels() { return nullptr; }
#endif
