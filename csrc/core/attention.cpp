#include "attention.h"

#include <cmath>
#include <type_traits>

#include "scratch.h"
#include "weight_gradient.h"

namespace squeezebert {
namespace {

// The element at `index` of a tensor of this precision.
template <class Pointer>
Pointer at(Pointer tensor, int64_t index, Precision precision) {
  using Byte = std::conditional_t<std::is_const_v<std::remove_pointer_t<Pointer>>, const char, char>;
  return static_cast<Byte*>(tensor) + index * (precision == Precision::bfloat16 ? 2 : 4);
}

HeadTensors head_of(Precision precision, const AttentionTensors& t, int64_t task) {
  const int64_t sequence = task / t.heads, head = task % t.heads, channels = t.heads * t.head_size;
  HeadTensors h{};
  h.head_size = t.head_size;
  h.queries = t.queries;
  h.keys = t.keys;
  h.q = at(t.q, sequence * t.queries * channels + head * t.head_size, precision);
  h.k = at(t.k, sequence * t.keys * channels + head * t.head_size, precision);
  h.v = at(t.v, sequence * t.keys * channels + head * t.head_size, precision);
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

void attention_forward(const KernelTable& table, Precision precision, const AttentionTensors& t, void* context,
                       int threads) {
  const PrecisionKernels& kernels = gradient_kernels(table, precision);
  const int64_t channels = t.heads * t.head_size;
  run_with_scratch(t.batch * t.heads, threads, kernels.training_attention_scratch(head_of(precision, t, 0)),
                   [&](int64_t task, char* scratch) {
                     const int64_t first = task / t.heads * t.queries * channels + task % t.heads * t.head_size;
                     kernels.attention_forward({head_of(precision, t, task), at(context, first, precision), channels},
                                               scratch);
                   });
}

void attention_backward(const KernelTable& table, Precision precision, const AttentionTensors& t,
                        const AttentionGradients& g, int threads) {
  const PrecisionKernels& kernels = gradient_kernels(table, precision);
  const int64_t channels = t.heads * t.head_size;
  run_with_scratch(t.batch * t.heads, threads, kernels.training_attention_scratch(head_of(precision, t, 0)),
                   [&](int64_t task, char* scratch) {
                     const int64_t sequence = task / t.heads, channel = task % t.heads * t.head_size;
                     const int64_t query = sequence * t.queries * channels + channel;
                     const int64_t key = sequence * t.keys * channels + channel;
                     kernels.attention_backward({head_of(precision, t, task), at(g.grad, query, precision), channels,
                                                 at(g.q, query, precision), at(g.k, key, precision),
                                                 at(g.v, key, precision), channels, channels, channels},
                                                scratch);
                   });
}

}  // namespace squeezebert
