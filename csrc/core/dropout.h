// Dropout: what kernels need to know of it, and by itself.
#pragma once
#include <cstdint>

#include "../kernels/kernel_table.h"

namespace squeezebert {

// probability: of dropping an element, in [0, 1].
Dropout dropout_of(double probability, uint64_t seed);

// y = dropout(x), [rows, channels], contiguous, of `element`; of x's gradient the same.
void apply_dropout(const KernelTable& kernels, const Dropout& dropout, const void* x, void* y, int64_t rows,
                   int64_t channels, int threads, Element element = Element::float32);

}  // namespace squeezebert
