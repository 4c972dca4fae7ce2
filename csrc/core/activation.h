// An activation's gradient, in float32.
#pragma once
#include <cstdint>

#include "../kernels/kernel_table.h"

namespace squeezebert {

// grad to grad * activation'(z), in place.
void activation_backward(const KernelTable& kernels, Activation activation, float* z, float* grad, int64_t count,
                         int threads);

}  // namespace squeezebert
