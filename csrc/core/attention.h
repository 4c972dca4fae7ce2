// Attention in training: forward and gradients, a task for each head of a sequence. In float32, and on matrix units in
// bfloat16, which takes tensors of it.
#pragma once
#include <array>
#include <cstdint>

#include "../kernels/kernel_table.h"

namespace squeezebert {

// Attention on q: [batch, queries, channels], k and v: [batch, keys, channels]; channels = heads * head_size.
struct AttentionTensors {
  int64_t batch, queries, keys, heads, head_size;
  const void *q, *k, *v;
  const float* mask;                    // added to the scores, or null
  std::array<int64_t, 3> mask_strides;  // by sequence, head and query, any of which may be 0; keys are contiguous
  Dropout dropout;
  float* statistics;                   // [batch, heads, queries, 2]
  Element element = Element::float32;  // of q, k, v, context and gradients
};
void attention_forward(const KernelTable& kernels, Precision precision, const AttentionTensors& tensors, void* context,
                       int threads);

struct AttentionGradients {
  const void* grad;  // [batch, queries, channels]
  void *q, *k, *v;
};
void attention_backward(const KernelTable& kernels, Precision precision, const AttentionTensors& tensors,
                        const AttentionGradients& gradients, int threads);

}  // namespace squeezebert
