// The kernels of isa/avx512_amx.cpp on the plain C++ twin of the tile instructions: what tests run where no CPU has
// AMX. Compiled with the flags of isa/avx512_vnni.cpp.
#include "amx_twin_build.h"

#if defined(__AVX512VNNI__)
#include "../simd/avx512.h"
// after the vectors that kernels are written in
#include "../isa/export_matrix_table.h"
#include "../kernels/micro/amx_twin.h"

SQUEEZEBERT_EXPORT_MATRIX_TABLE(amx_twin, AmxTwin)
#else
const squeezebert::KernelTable* squeezebert::amx_twin_kernels() { return nullptr; }
#endif
