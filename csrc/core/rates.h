// How fast this machine multiplies and adds: what benchmarks hold the kernels against.
#pragma once
#include "../kernels/kernel_table.h"

namespace squeezebert {

// Operations per second on `threads` threads, measured over about `seconds`; a multiply-add is two.

// Of independent multiply-adds in registers: the limit.
double multiply_add_rate(const KernelTable& kernels, Precision precision, int threads, double seconds);

// Of one whole tile of a product whose operands, weights and results stay in the first-level cache: what is left of the
// limit once there are loads, loop ends and stores, before there are memory, activations and other threads.
double tile_rate(const KernelTable& kernels, Precision precision, int threads, double seconds);

}  // namespace squeezebert
