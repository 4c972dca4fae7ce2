#include "attention.h"

#include <cmath>

#include "scratch.h"

namespace squeezebert {
namespace {

HeadTensors head_of(const AttentionTensors& t, int64_t task) {
  const int64_t sequence = task / t.heads, head = task % t.heads, channels = t.heads * t.head_size;
  HeadTensors h{};
  h.head_size = t.head_size;
  h.queries = t.queries;
  h.keys = t.keys;
  h.q = t.q + sequence * t.queries * channels + head * t.head_size;
  h.k = t.k + sequence * t.keys * channels + head * t.head_size;
  h.v = t.v + sequence * t.keys * channels + head * t.head_size;
  h.q_row_stride = h.k_row_stride = h.v_row_stride = channels;
  h.scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(t.head_size)));
  if (t.mask) h.mask = t.mask + sequence * t.mask_strides[0] + head * t.mask_strides[1];
  h.mask_row_stride = t.mask_strides[2];
  h.dropout = t.dropout;
  h.dropout_row = task * t.queries;
  h.statistics = t.statistics + task * t.queries * 2;
  return h;
}

}  // namespace

void attention_forward(const KernelTable& kernels, const AttentionTensors& t, float* context, int threads) {
  const int64_t channels = t.heads * t.head_size;
  run_with_scratch(t.batch * t.heads, threads, kernels.training.attention_scratch(head_of(t, 0)),
                   [&](int64_t task, char* scratch) {
                     const int64_t first = task / t.heads * t.queries * channels + task % t.heads * t.head_size;
                     kernels.training.attention_forward({head_of(t, task), context + first, channels}, scratch);
                   });
}

void attention_backward(const KernelTable& kernels, const AttentionTensors& t, const AttentionGradients& g,
                        int threads) {
  const int64_t channels = t.heads * t.head_size;
  run_with_scratch(
      t.batch * t.heads, threads, kernels.training.attention_scratch(head_of(t, 0)), [&](int64_t task, char* scratch) {
        const int64_t sequence = task / t.heads, channel = task % t.heads * t.head_size;
        const int64_t query = sequence * t.queries * channels + channel, key = sequence * t.keys * channels + channel;
        kernels.training.attention_backward({head_of(t, task), g.grad + query, channels, g.q + query, g.k + key,
                                             g.v + key, channels, channels, channels},
                                            scratch);
      });
}

}  // namespace squeezebert
