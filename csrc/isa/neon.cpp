// Compiled with the flags that build_flags.py gives it; empty where they don't apply.
#include "../kernels/kernel_table.h"

#if defined(__aarch64__)
#include "../simd/neon.h"
// after the vectors that kernels are written in
#include "../kernels/micro/pair_tile.h"
#include "export_table.h"

SQUEEZEBERT_EXPORT_WITHOUT_PARTS(neon, LaneTile<Float32>, (kernels_of<LaneTile<Bfloat16>, VectorScores>(false)),
                                 (kernels_of<PairTile, VectorScores>(false)))
#else
const squeezebert::KernelTable* squeezebert::neon_kernels() { return nullptr; }
#endif
