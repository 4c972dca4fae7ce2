// LayerNorm by itself; and dropout, residual and LayerNorm in training: forward and gradients. Tensors are contiguous.
#pragma once
#include <cstdint>

#include "../kernels/kernel_table.h"

namespace squeezebert {

struct LayerNorm {
  const float* weight;
  const float* bias;
  float eps;
  int64_t channels;
};

// Each row of [rows, channels], in place.
void layer_norm(const KernelTable& kernels, const LayerNorm& norm, float* x, int64_t rows, int threads);

void add_layer_norm_forward(const KernelTable& kernels, const AddLayerNormForward& norm, int64_t rows, int threads);
void add_layer_norm_backward(const KernelTable& kernels, const AddLayerNormBackward& norm, int64_t rows, int threads);

}  // namespace squeezebert
