// What kernels need to know of a dropout.
#pragma once
#include <cstdint>

#include "../kernels/kernel_table.h"

namespace squeezebert {

// probability: of dropping an element, in [0, 1].
Dropout dropout_of(double probability, uint64_t seed);

}  // namespace squeezebert
