// Compiled with the flags that build_flags.py gives it; empty where they don't apply.
#include "../kernels/kernel_table.h"

#if defined(__AMX_TILE__) && defined(__AMX_BF16__) && defined(__AMX_INT8__)
#include "../simd/avx512.h"
// after the vectors that kernels are written in
#include "../kernels/micro/amx_instructions.h"
#include "export_matrix_table.h"

SQUEEZEBERT_EXPORT_MATRIX_TABLE(avx512_amx, AmxInstructions)
#else
const squeezebert::KernelTable* squeezebert::avx512_amx_kernels() { return nullptr; }
#endif
