// Dropout, residual and LayerNorm in training: forward and gradients in float32, tensors contiguous.
#pragma once
#include <cstdint>

#include "../kernels/kernel_table.h"

namespace squeezebert {

void add_layer_norm_forward(const KernelTable& kernels, const AddLayerNormForward& norm, int64_t rows, int threads);
void add_layer_norm_backward(const KernelTable& kernels, const AddLayerNormBackward& norm, int64_t rows, int threads);

}  // namespace squeezebert
