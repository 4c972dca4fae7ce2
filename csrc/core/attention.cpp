#include "attention.h"

#include <cmath>
#include <stdexcept>

#include "elements.h"
#include "scratch.h"
#include "weight_gradient.h"

namespace squeezebert {
namespace {

HeadTensors head_of(const AttentionTensors& t, int64_t task) {
  const int64_t sequence = task / t.heads, head = task % t.heads, channels = t.heads * t.head_size;
  HeadTensors h{};
  h.element = t.element;
  h.head_size = t.head_size;
  h.queries = t.queries;
  h.keys = t.keys;
  h.q = at(t.q, sequence * t.queries * channels + head * t.head_size, t.element);
  h.k = at(t.k, sequence * t.keys * channels + head * t.head_size, t.element);
  h.v = at(t.v, sequence * t.keys * channels + head * t.head_size, t.element);
  h.q_row_stride = h.k_row_stride = h.v_row_stride = channels;
  h.scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(t.head_size)));
  if (t.mask) h.mask = t.mask + sequence * t.mask_strides[0] + head * t.mask_strides[1];
  h.mask_row_stride = t.mask_strides[2];
  h.dropout = t.dropout;
  h.dropout_row = task * t.queries;
  h.statistics = t.statistics + task * t.queries * 2;
  return h;
}

const PrecisionKernels& attention_kernels(const KernelTable& table, Precision precision, Element element) {
  if (precision == Precision::bfloat16 && element != Element::bfloat16) {
    throw std::invalid_argument("attention in bfloat16 takes tensors of it");
  }
  return gradient_kernels(table, precision, element);
}

}  // namespace

void attention_forward(const KernelTable& table, Precision precision, const AttentionTensors& t, void* context,
                       int threads) {
  const PrecisionKernels& kernels = attention_kernels(table, precision, t.element);
  const int64_t channels = t.heads * t.head_size;
  run_with_scratch(t.batch * t.heads, threads, kernels.training_attention_scratch(head_of(t, 0)),
                   [&](int64_t task, char* scratch) {
                     const int64_t first = task / t.heads * t.queries * channels + task % t.heads * t.head_size;
                     kernels.attention_forward({head_of(t, task), at(context, first, t.element), channels}, scratch);
                   });
}

void attention_backward(const KernelTable& table, Precision precision, const AttentionTensors& t,
                        const AttentionGradients& g, int threads) {
  const PrecisionKernels& kernels = attention_kernels(table, precision, t.element);
  const int64_t channels = t.heads * t.head_size;
  run_with_scratch(
      t.batch * t.heads, threads, kernels.training_attention_scratch(head_of(t, 0)), [&](int64_t task, char* scratch) {
        const int64_t sequence = task / t.heads, channel = task % t.heads * t.head_size;
        const int64_t query = sequence * t.queries * channels + channel;
        const int64_t key = sequence * t.keys * channels + channel;
        kernels.attention_backward({head_of(t, task), at(g.grad, query, t.element), channels, at(g.q, query, t.element),
                                    at(g.k, key, t.element), at(g.v, key, t.element), channels, channels, channels},
                                   scratch);
      });
}

}  // namespace squeezebert
