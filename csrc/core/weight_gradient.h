// Gradients of weights.
#pragma once
#include <cstdint>
#include <vector>

#include "../kernels/kernel_table.h"

namespace squeezebert {

// The gradients of the weights of grouped products of one shape on the same rows, weight = grad^T x group by group, and
// of their biases.
struct GroupedGradients {
  struct Of {
    const void* grad;  // [rows, out_channels]
    float* weight;     // [out_channels, in_channels / groups]
    float* bias;       // [out_channels] or null
  };
  std::vector<Of> all;
  const void* x;  // [rows, in_channels]
  int64_t rows, groups, in_channels, out_channels;
  Element element = Element::float32;  // of grads and x
};
void weight_gradient(const KernelTable& kernels, Precision precision, const GroupedGradients& gradients, int threads);

// Whether attention in training and products of gradients run in this precision: float32 everywhere,
// bfloat16 on matrix units, and float32 by parts where those have it.
bool has_gradients(const KernelTable& kernels, Precision precision);

// The kernels of that in a precision, for tensors of `element`. Throws std::invalid_argument where the build has none;
// those by parts take float32 alone.
const PrecisionKernels& gradient_kernels(const KernelTable& kernels, Precision precision, Element element);

}  // namespace squeezebert
