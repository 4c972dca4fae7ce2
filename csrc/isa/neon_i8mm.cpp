// Compiled with the flags that build_flags.py gives it; empty where they don't apply.
#include "../kernels/kernel_table.h"

#if defined(__ARM_FEATURE_MATMUL_INT8) && defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
#include "../simd/neon.h"
// after the vectors that kernels are written in
#include "../kernels/micro/mmla_tile.h"
#include "export_table.h"

SQUEEZEBERT_EXPORT_KERNELS(neon_i8mm, (kernels_of<MmlaTile<MmlaBfloat16>, VectorScores>(true)),
                           (kernels_of<MmlaTile<MmlaInt8>, VectorScores>(true)),
                           (kernels_of<VectorTile<Float32>, VectorScores>(true)),
                           (kernels_of<VectorTile<Float32>, VectorScores>(true)),
                           (kernels_of<VectorTile<Float32>, VectorScores>(true)))
#else
const squeezebert::KernelTable* squeezebert::neon_i8mm_kernels() { return nullptr; }
#endif
