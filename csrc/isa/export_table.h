// The last line of every csrc/isa/*.cpp: the kernels, compiled with that file's flags, as a table.
// Everything included here has internal linkage, and nothing of the C++ library is used: a template or inline function
// compiled under two flag sets would be merged by the linker, and the wrong copy might be kept.
#pragma once
#include "../kernels/grouped_pointwise_conv.h"
#include "../kernels/multiply_add_chains.h"

#define SQUEEZEBERT_EXPORT_TABLE(NAME)                                   \
  const squeezebert::KernelTable* squeezebert::NAME##_kernels() {        \
    static constexpr KernelTable table = {#NAME,                         \
                                          kTileRows,                     \
                                          kPanelColumns,                 \
                                          ::packed_columns,              \
                                          ::pack_grouped_pointwise_conv, \
                                          ::grouped_pointwise_conv,      \
                                          ::multiply_add_chains};        \
    return &table;                                                       \
  }
