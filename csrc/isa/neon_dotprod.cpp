// Compiled with the flags that build_flags.py gives it; empty where they don't apply.
#include "../kernels/kernel_table.h"

#if defined(__ARM_FEATURE_DOTPROD)
#include "../simd/neon.h"
// after the vectors that kernels are written in
#include "../kernels/micro/lane_tile.h"
#include "export_table.h"

SQUEEZEBERT_EXPORT_WITHOUT_PARTS(neon_dotprod, LaneTile<Float32>, (kernels_of<LaneTile<Bfloat16>, VectorScores>(false)),
                                 (kernels_of<LaneTile<Int8>, VectorScores>(true)))
#else
const squeezebert::KernelTable* squeezebert::neon_dotprod_kernels() { return nullptr; }
#endif
