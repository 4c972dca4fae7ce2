// The kernels of isa/avx512_amx.cpp on plain C++: twins of the tile instructions and of the vectors beside them. So
// they are tested on every CPU, by the sanitizers and by valgrind. Compiled with the flags of isa/avx2.cpp.
#include "amx_twin_build.h"

#include "wide_vectors.h"
// after the vectors that kernels are written in
#include "../isa/export_matrix_table.h"
#include "../kernels/micro/amx_twin.h"

SQUEEZEBERT_EXPORT_MATRIX_TABLE(amx_twin, AmxTwin)
