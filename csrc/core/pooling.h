// Sentence vectors from token vectors: float32, tensors contiguous. Their bits are the same on every build.
#pragma once
#include <cstdint>

namespace squeezebert {

struct MeanPool {
  const float* x;       // [batch, tokens, channels]
  const int64_t* mask;  // [batch, tokens], not 0 for tokens that count; null: all of them
  int64_t batch, tokens, channels;
  float* y;  // [batch, channels]: zeros for a sequence none of whose tokens counts
};

// Sums tokens in their order, so that what padding follows them doesn't matter, and in double: one float after another
// loses ten times what PyTorch's sums lose, which are made of short ones.
void mean_pool(const MeanPool& pool, int threads);

// Each row of [rows, channels] divided by its length, or by 1e-12 where that is less, in place.
void to_unit_length(float* x, int64_t rows, int64_t channels);

}  // namespace squeezebert
