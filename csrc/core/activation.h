// An activation by itself, and its gradient, in float32.
#pragma once
#include <cstdint>

#include "../kernels/kernel_table.h"

namespace squeezebert {

// x to activation(x), in place.
void activate(const KernelTable& kernels, Activation activation, float* x, int64_t count, int threads);

// grad to grad * activation'(z), in place.
void activation_backward(const KernelTable& kernels, Activation activation, float* z, float* grad, int64_t count,
                         int threads);

}  // namespace squeezebert
