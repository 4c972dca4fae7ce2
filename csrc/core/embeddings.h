// Word, position and token type embeddings, summed and normalised.
#pragma once
#include <cstdint>

#include "../kernels/kernel_table.h"

namespace squeezebert {

// Checks every id of `e` against its table's size, then computes e.y for `rows` rows on `threads` threads. Returns
// false, with nothing written, when an id is out of range.
bool run_embeddings(const KernelTable& kernels, const Embeddings& e, int64_t rows, int threads);

}  // namespace squeezebert
