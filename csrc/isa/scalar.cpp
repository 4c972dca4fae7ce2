// Compiled with no instruction-set flags.
#include "../simd/scalar.h"

#include "export_table.h"

SQUEEZEBERT_EXPORT_TABLE(scalar, false, false)
