// Gradients of weights, in float32.
#pragma once
#include <cstdint>
#include <vector>

#include "../kernels/kernel_table.h"

namespace squeezebert {

// The gradients of the weights of grouped products of one shape on the same rows, weight = grad^T x group by group, and
// of their biases.
struct GroupedGradients {
  struct Of {
    const float* grad;  // [rows, out_channels]
    float* weight;      // [out_channels, in_channels / groups]
    float* bias;        // [out_channels] or null
  };
  std::vector<Of> all;
  const float* x;  // [rows, in_channels]
  int64_t rows, groups, in_channels, out_channels;
};
void weight_gradient(const KernelTable& kernels, const GroupedGradients& gradients, int threads);

}  // namespace squeezebert
