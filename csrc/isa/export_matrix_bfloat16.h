// The kernels of bfloat16 in a build with matrix units, which `Panels` multiplies with (kernels/matrix_attention.h).
#pragma once
#include "../kernels/matrix_attention.h"
#include "../kernels/matrix_attention_training.h"
#include "../kernels/matrix_gradients.h"
#include "../kernels/matrix_packing.h"
#include "export_table.h"

namespace {

template <class Panels>
constexpr PrecisionKernels matrix_bfloat16() {
  PrecisionKernels kernels = with_training<MatrixGradients<Panels>, MatrixTrainingAttention<Panels>>(
      kernels_of<typename Panels::Micro, MatrixScores<Panels>>(true, pack_rounded<Panels>));
  kernels.takes_bfloat16 = true;
  return kernels;
}

}  // namespace
