// The training kernels spread over threads. All in float32; tensors are contiguous but where a stride says otherwise.
#pragma once
#include <array>
#include <cstdint>
#include <vector>

#include "../kernels/kernel_table.h"

namespace squeezebert {

// probability: of dropping an element, in [0, 1].
Dropout dropout_of(double probability, uint64_t seed);

// Attention on q: [batch, queries, channels], k and v: [batch, keys, channels]; channels = heads * head_size.
struct AttentionTensors {
  int64_t batch, queries, keys, heads, head_size;
  const float *q, *k, *v;
  const float* mask;                    // added to the scores, or null
  std::array<int64_t, 3> mask_strides;  // by sequence, head and query, any of which may be 0; keys are contiguous
  Dropout dropout;
  float* statistics;  // [batch, heads, queries, 2]
};
void attention_forward(const KernelTable& kernels, const AttentionTensors& tensors, float* context, int threads);

struct AttentionGradients {
  const float* grad;  // [batch, queries, channels]
  float *q, *k, *v;
};
void attention_backward(const KernelTable& kernels, const AttentionTensors& tensors,
                        const AttentionGradients& gradients, int threads);

void add_layer_norm_forward(const KernelTable& kernels, const AddLayerNormForward& norm, int64_t rows, int threads);
void add_layer_norm_backward(const KernelTable& kernels, const AddLayerNormBackward& norm, int64_t rows, int threads);

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

// grad to grad * activation'(z), in place.
void activation_backward(const KernelTable& kernels, Activation activation, float* z, float* grad, int64_t count,
                         int threads);

}  // namespace squeezebert
