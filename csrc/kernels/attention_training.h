// Attention of one head on q, k and v: a forward that keeps two numbers a query, and the backward, which computes the
// probabilities P = exp(scores - largest) * reciprocal again from them, block by block:
//
//     dV = P'^T dO        P' = P * keep, dropout's factors
//     dP = (dO V^T) * keep
//     dS = P * (dP - delta) * scale,     delta = sum of P * dP over the keys, query by query
//     dQ = dS K,  dK = dS^T Q
//
// delta is dO . O as well, which is cheaper, and which FlashAttention takes. But where tokens are alike, as in the last
// layers, dP - delta is a small difference of large numbers: it must come from the same dP, not from an O that was
// summed, or even rounded to bfloat16, in between.
//
// Included by the instruction-set builds alone.
#pragma once
#include "attention.h"
#include "bfloat_rows.h"

namespace {

using squeezebert::AttentionBackward;
using squeezebert::AttentionForward;
using squeezebert::HeadTensors;

constexpr int64_t kBackwardQueries = 48;  // whole vectors and tiles of every build
static_assert(kBackwardQueries % kLanes == 0, "transposed blocks are whole vectors");

// Rows of head_size numbers to rows of whole vectors, padded with zeros.
inline void copy_head(Element element, const void* head, int64_t stride, int64_t rows, int64_t head_size, float* to,
                      int64_t to_stride) {
  with_element(element, [&](auto type) {
    const auto* from = static_cast<const decltype(type)*>(head);
    for (int64_t r = 0; r < rows; ++r) {
      for_each_vector(head_size, [&](int64_t c, int lanes) {
        store(to + r * to_stride + c, load_lanes(from + r * stride + c, lanes));
      });
    }
  });
}
inline void copy_back(Element element, const float* from, int64_t from_stride, int64_t rows, int64_t head_size,
                      void* head, int64_t stride) {
  with_element(element, [&](auto type) {
    copy_rows(from, from_stride, head_size, {0, rows}, static_cast<decltype(type)*>(head), stride);
  });
}

// Of a context that is rounded in the end.
inline int64_t context_bytes(const HeadTensors& h) {
  const int64_t floats = h.queries * padded_columns(h.head_size);
  return h.element == Element::bfloat16 ? floats * static_cast<int64_t>(sizeof(float)) : 0;
}

inline void attention_forward(const AttentionForward& a, char* scratch) {
  const HeadTensors& h = a.head;
  const int64_t rows = h.queries > h.keys ? h.queries : h.keys;
  const AttentionScratch s = attention_layout(rows, h.head_size, scratch);
  const int64_t padded = padded_columns(h.head_size), stride = 3 * padded;
  copy_head(h.element, h.q, h.q_row_stride, h.queries, h.head_size, s.qkv, stride);
  copy_head(h.element, h.k, h.k_row_stride, h.keys, h.head_size, s.qkv + padded, stride);
  copy_head(h.element, h.v, h.v_row_stride, h.keys, h.head_size, s.qkv + 2 * padded, stride);
  const bool rounds = h.element == Element::bfloat16;
  float* const context = rounds ? reinterpret_cast<float*>(scratch + s.bytes) : static_cast<float*>(a.context);
  const int64_t context_stride = rounds ? padded : a.context_row_stride;
  attend({h.head_size, h.queries, nullptr, h.keys, h.scale, h.mask, h.mask_row_stride, context, context_stride,
          h.statistics, h.dropout, h.dropout_row},
         s);
  if (rounds) copy_back(h.element, context, padded, h.queries, h.head_size, a.context, a.context_row_stride);
}

struct AttentionBackwardScratch {
  float *q, *k, *v, *grad;          // [queries or keys, padded head size]
  float *grad_q, *grad_k, *grad_v;  // the same
  float *keys, *values;             // panels of [head_size, kPanelColumns]
  float *scores, *slopes;           // [kBackwardQueries, width], P' and dS
  float *scores_t, *slopes_t;       // [width, kBackwardQueries]
  float* probabilities;             // [width], of one query before dropout
  int64_t padded, width;
  int64_t bytes;
};

inline AttentionBackwardScratch attention_backward_layout(const HeadTensors& h, char* scratch) {
  AttentionBackwardScratch s;
  s.padded = padded_columns(h.head_size);
  s.width = least(kKeyBlock, round_up(h.keys, kPanelColumns));
  ScratchCut cut{scratch};
  float** const by_query[] = {&s.q, &s.grad, &s.grad_q};
  for (float** rows : by_query) *rows = cut.take<float>(h.queries * s.padded);
  float** const by_key[] = {&s.k, &s.v, &s.grad_k, &s.grad_v};
  for (float** rows : by_key) *rows = cut.take<float>(h.keys * s.padded);
  float** const by_panel[] = {&s.keys, &s.values};
  for (float** panels : by_panel) *panels = cut.take<float>(round_up(h.keys, kPanelColumns) * h.head_size);
  float** const by_block[] = {&s.scores, &s.slopes, &s.scores_t, &s.slopes_t};
  for (float** block : by_block) *block = cut.take<float>(kBackwardQueries * s.width);
  s.probabilities = cut.take<float>(s.width);
  s.bytes = cut.bytes;
  return s;
}

// One query's scores to P', and its products dO V^T to dP, in place; P to `probabilities`, which without dropout may be
// `scores`. Returns the sum of P * dP.
inline float probabilities_again(const HeadTensors& h, int64_t query, int64_t first, int64_t count,
                                 float* probabilities, float* scores, float* slopes) {
  const float* mask = h.mask ? h.mask + query * h.mask_row_stride + first : nullptr;
  const Vec factor = broadcast(h.scale), reciprocal = broadcast(h.statistics[2 * query + 1]);
  const Vec largest = broadcast(h.statistics[2 * query]);
  Vec sum = broadcast(0.0f);
  const auto visit = [&](int64_t i, int lanes, auto keep) {
    Vec score = load_lanes(scores + i, lanes) * factor;
    if (mask) score = score + load_lanes(mask + i, lanes);
    const Vec p = weight_of(score - largest) * reciprocal, slope = keep(load_lanes(slopes + i, lanes));
    store_lanes(scores + i, keep(p), lanes);
    store_lanes(probabilities + i, p, lanes);
    store_lanes(slopes + i, slope, lanes);
    // the lanes past the last key hold the weight of a score of 0, which may be infinite
    sum = multiply_add(lanes == kLanes ? p : load_first(probabilities + i, lanes), slope, sum);
  };
  if (h.dropout.threshold) {
    for_each_kept(h.dropout, h.dropout_row + query, first, count,
                  [&](int64_t i, int lanes, Vec kept) { visit(i, lanes, [&](Vec v) { return v * kept; }); });
  } else {
    for_each_vector(count, [&](int64_t i, int lanes) { visit(i, lanes, [](Vec v) { return v; }); });
  }
  return sum_of_lanes(sum);
}

// One query's dP to dS, in place.
inline void softmax_backward(const float* probabilities, float delta, float scale, int64_t count, float* slopes) {
  const Vec d = broadcast(delta), factor = broadcast(scale);
  for_each_vector(count, [&](int64_t i, int lanes) {
    const Vec slope = load_lanes(slopes + i, lanes) - d;
    store_lanes(slopes + i, load_lanes(probabilities + i, lanes) * slope * factor, lanes);
  });
}

inline void attention_backward(const AttentionBackward& a, char* scratch) {
  const HeadTensors& h = a.head;
  const AttentionBackwardScratch s = attention_backward_layout(h, scratch);
  const int64_t padded = s.padded, vectors = padded / kLanes;
  copy_head(h.element, h.q, h.q_row_stride, h.queries, h.head_size, s.q, padded);
  copy_head(h.element, a.grad, a.grad_row_stride, h.queries, h.head_size, s.grad, padded);
  copy_head(h.element, h.k, h.k_row_stride, h.keys, h.head_size, s.k, padded);
  copy_head(h.element, h.v, h.v_row_stride, h.keys, h.head_size, s.v, padded);
  const auto row = [](int64_t j) { return j; };
  transpose_keys(s.k, padded, h.head_size, h.keys, row, s.keys);
  transpose_keys(s.v, padded, h.head_size, h.keys, row, s.values);
  const bool several = h.keys > kKeyBlock;
  const auto probabilities_of = [&](int64_t q) {
    return h.dropout.threshold ? s.probabilities : s.scores + q * s.width;
  };

  for (int64_t q0 = 0; q0 < h.queries; q0 += kBackwardQueries) {
    const int64_t queries = least(kBackwardQueries, h.queries - q0);
    const auto products = [&](int64_t k0, int64_t keys) {
      times_panels(s.q + q0 * padded, padded, queries, s.keys + k0 * h.head_size, h.head_size, keys, s.scores, s.width);
      times_panels(s.grad + q0 * padded, padded, queries, s.values + k0 * h.head_size, h.head_size, keys, s.slopes,
                   s.width);
    };
    const auto again = [&](int64_t q, int64_t k0, int64_t keys) {
      return probabilities_again(h, q0 + q, k0, keys, probabilities_of(q), s.scores + q * s.width,
                                 s.slopes + q * s.width);
    };
    // Where one block holds all keys, a query's delta comes with its probabilities; else the blocks are gone through
    // twice.
    float delta[kBackwardQueries] = {};
    if (several) {
      for (int64_t k0 = 0; k0 < h.keys; k0 += kKeyBlock) {
        const int64_t keys = least(kKeyBlock, h.keys - k0);
        products(k0, keys);
        for (int64_t q = 0; q < queries; ++q) delta[q] += again(q, k0, keys);
      }
    }
    for (int64_t k0 = 0; k0 < h.keys; k0 += kKeyBlock) {
      const int64_t keys = least(kKeyBlock, h.keys - k0);
      products(k0, keys);
      for (int64_t q = 0; q < queries; ++q) {
        const float sum = again(q, k0, keys);
        softmax_backward(probabilities_of(q), several ? delta[q] : sum, h.scale, keys, s.slopes + q * s.width);
      }
      times_rows(s.slopes, s.width, queries, s.k + k0 * padded, padded, keys, k0 > 0, s.grad_q + q0 * padded, padded,
                 vectors);
      transpose(s.scores, s.width, queries, keys, s.scores_t, kBackwardQueries);
      transpose(s.slopes, s.width, queries, keys, s.slopes_t, kBackwardQueries);
      times_rows(s.scores_t, kBackwardQueries, keys, s.grad + q0 * padded, padded, queries, q0 > 0,
                 s.grad_v + k0 * padded, padded, vectors);
      times_rows(s.slopes_t, kBackwardQueries, keys, s.q + q0 * padded, padded, queries, q0 > 0, s.grad_k + k0 * padded,
                 padded, vectors);
    }
  }
  copy_back(h.element, s.grad_q, padded, h.queries, h.head_size, a.grad_q, a.grad_q_row_stride);
  copy_back(h.element, s.grad_k, padded, h.keys, h.head_size, a.grad_k, a.grad_k_row_stride);
  copy_back(h.element, s.grad_v, padded, h.keys, h.head_size, a.grad_v, a.grad_v_row_stride);
}

// What MatrixTrainingAttention (matrix_attention_training.h) is in bfloat16.
struct VectorTrainingAttention {
  static int64_t scratch(const HeadTensors& h) {
    const int64_t rows = h.queries > h.keys ? h.queries : h.keys;
    const int64_t forward = attention_scratch(rows, h.head_size) + context_bytes(h);
    const int64_t backward = attention_backward_layout(h, nullptr).bytes;
    return forward > backward ? forward : backward;
  }
  static void forward(const AttentionForward& a, char* scratch) { attention_forward(a, scratch); }
  static void backward(const AttentionBackward& a, char* scratch) { attention_backward(a, scratch); }
};

}  // namespace
