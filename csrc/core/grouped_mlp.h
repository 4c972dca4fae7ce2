// The gradient of a feed-forward block, act(x * in^T + bias) * out^T + bias, whose groups line up.
#pragma once
#include <cstdint>

#include "packed_segments.h"

namespace squeezebert {

struct GroupedMlpBackward {
  ConvWeights in, out;  // of equal groups; float32
  Activation activation;
  int64_t rows;
  const float *x, *grad;  // [rows, channels], contiguous
  // Each may be null; a bias's gradient is computed with its weight's alone.
  float *grad_x, *grad_weight_in, *grad_bias_in, *grad_weight_out, *grad_bias_out;
};
void grouped_mlp_backward(const KernelTable& kernels, const GroupedMlpBackward& block, int threads);

}  // namespace squeezebert
