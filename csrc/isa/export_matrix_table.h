// export_table.h's last line for a build with matrix units: TILES is what runs their instructions.
#pragma once
#include "../kernels/micro/tile_panels.h"
#include "../kernels/parts_gradients.h"
#include "export_matrix_bfloat16.h"

namespace {

// Scores stay on vectors, in float32.
template <int kParts, class Tiles>
constexpr PrecisionKernels kernels_by_parts() {
  using Micro = MatrixTile<Float32Parts<kParts>, Tiles>;
  using Panels = TilePanels<Tiles>;
  PrecisionKernels kernels = with_training<PartsGradients<Micro, Panels>, VectorTrainingAttention>(
      kernels_of<Micro, VectorScores>(true, pack_by_parts<kParts, Panels>));
  kernels.products = Micro::kProducts;
  return kernels;
}

}  // namespace

// int8's attention is in bfloat16: rounding keys, queries, values and weights to it costs less accuracy than int8 has
// cost already, and float32 would take longer than all products.
#define SQUEEZEBERT_EXPORT_MATRIX_TABLE(NAME, TILES)                                                       \
  SQUEEZEBERT_EXPORT_KERNELS(NAME, VectorTile<Float32>, (matrix_bfloat16<TilePanels<TILES>>()),            \
                             (kernels_of<MatrixTile<Int8, TILES>, MatrixScores<TilePanels<TILES>>>(true)), \
                             (kernels_by_parts<3, TILES>()), (kernels_by_parts<2, TILES>()),               \
                             (kernels_by_parts<1, TILES>()))
