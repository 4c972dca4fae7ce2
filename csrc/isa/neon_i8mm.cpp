// Compiled with the flags that build_flags.py gives it; empty where they don't apply.
#include "../kernels/kernel_table.h"

#if defined(__ARM_FEATURE_MATMUL_INT8) && defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
#include "../simd/neon.h"
// after the vectors that kernels are written in
#include "../kernels/micro/lane_tile.h"
#include "../kernels/micro/mmla_panels.h"
#include "export_matrix_bfloat16.h"

// int8's attention is in bfloat16, as on tiles (export_matrix_table.h).
SQUEEZEBERT_EXPORT_WITHOUT_PARTS(neon_i8mm, LaneTile<Float32>, (matrix_bfloat16<MmlaPanels>()),
                                 (kernels_of<MmlaTile<MmlaInt8>, MatrixScores<MmlaPanels>>(true)))
#else
const squeezebert::KernelTable* squeezebert::neon_i8mm_kernels() { return nullptr; }
#endif
