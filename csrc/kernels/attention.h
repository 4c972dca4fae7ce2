// Pass A for one head of one sequence: q, k and v projected from x, softmax(q k^T scale + mask) v to the context.
// Included by the instruction-set builds alone.
//
//    x[:, group]                q | k | v                  k^T in panels         scores of kQueryRows queries
//   +-----------+   weights   +---+---+---+  transposed   +------+------+         +----------------------+
//   |   rows    | ----------> |   |   |   | ------------> | keys | keys |  q * -> | kQueryRows x kKeys   | -> softmax
//   +-----------+             +---+---+---+               +------+------+         +----------------------+   * v
//
// q, k and v of the one head stay in the second-level cache, the scores of one block in the first; none reaches main
// memory. Keys come in blocks of kKeyBlock with a running maximum and sum (online softmax), so the scores of a long
// sequence are never all there. Keys that a mask leaves out are dropped before, so a sequence has the same bits with
// and without padding, wherever that stands.
#pragma once
#include "add_layer_norm.h"
#include "dropout.h"
#include "panels.h"
#include "product.h"
#include "scratch_cut.h"

namespace {

using squeezebert::Attention;

constexpr int64_t kQueryRows = 24;  // whole tiles of 8, 6 and 4 rows
constexpr int64_t kKeyBlock = 528;  // whole panels of 48, 24, 12 and 3; one block for up to 512 tokens
static_assert(kKeyBlock % kPanelColumns == 0 && kQueryRows % kTileRows == 0, "blocks are whole panels and tiles");

struct AttentionScratch {
  float* qkv;     // [rows, 3 * padded head size]
  float* keys;    // panels of [head_size, kPanelColumns]
  float* scores;  // [kQueryRows, kKeyBlock]
  float* sums;    // [kQueryRows, padded head size], probabilities times v
  float* largest;
  float* total;  // [kQueryRows] each
  int64_t bytes;
};

inline AttentionScratch attention_layout(int64_t rows, int64_t head_size, char* scratch) {
  const int64_t padded = padded_columns(head_size);
  AttentionScratch s;
  ScratchCut cut{scratch};
  s.qkv = cut.take<float>(rows * 3 * padded);
  s.keys = cut.take<float>(round_up(rows, kPanelColumns) * head_size);
  s.scores = cut.take<float>(kQueryRows * kKeyBlock);
  s.sums = cut.take<float>(kQueryRows * padded);
  s.largest = cut.take<float>(kQueryRows);
  s.total = cut.take<float>(kQueryRows);
  s.bytes = cut.bytes;
  return s;
}

inline int64_t attention_scratch(int64_t rows, int64_t head_size) {
  return attention_layout(rows, head_size, nullptr).bytes;
}

// e^x, and 0 below -69: a masked key's weight must not be some 1e-38, whose products are numbers so small that the CPU
// takes a hundred times as long over each.
inline Vec weight_of(Vec x) { return where_positive(x + broadcast(69.0f), exponential(x)); }

// One row of scores to exponentials of their distance from the largest so far. Returns what the sums so far are to be
// multiplied by.
inline float soften(float* scores, int64_t count, float scale, const float* mask, float& largest, float& total,
                    bool first) {
  const Vec factor = broadcast(scale);
  Vec most = broadcast(-__builtin_inff());
  for_each_vector(count, [&](int64_t i, int lanes) {
    Vec v = load_lanes(scores + i, lanes) * factor;
    if (mask) v = v + load_lanes(mask + i, lanes);
    store_lanes(scores + i, v, lanes);
    if (lanes == kLanes) {
      most = maximum(most, v);
    } else {
      float rest[kLanes];
      store(rest, v);
      for (int j = 0; j < lanes; ++j) most = maximum(most, broadcast(rest[j]));
    }
  });
  const float before = largest;
  const float here = largest_lane(most);
  largest = first || here > before ? here : before;
  const float origin_or_any = largest == -__builtin_inff() ? 0.0f : largest;  // all of them -inf: see `attention`
  const Vec origin = broadcast(origin_or_any);
  Vec sum = broadcast(0.0f);
  for_each_vector(count, [&](int64_t i, int lanes) {
    const Vec e = weight_of(load_lanes(scores + i, lanes) - origin);
    store_lanes(scores + i, e, lanes);
    sum = sum + (lanes == kLanes ? e : load_first(scores + i, lanes));
  });
  float rescale = 0.0f;
  if (!first) {
    float lanes[kLanes];
    store(lanes, exponential(broadcast(before - origin_or_any)));
    rescale = lanes[0];
  }
  total = (first ? 0.0f : total * rescale) + sum_of_lanes(sum);
  return rescale;
}

// What sums are multiplied by in the end. A row that is masked everywhere by -inf has no softmax: PyTorch's is NaN, and
// so is this.
inline float inverse_of(float largest, float total) {
  return largest == -__builtin_inff() ? __builtin_nanf("") : 1.0f / total;
}

// What follows the projection: the loop over blocks of queries and keys. q, k and v are in `s`.
struct Attend {
  int64_t head_size, queries;
  const int32_t* keys;  // rows that are attended to, ascending, or null: all
  int64_t key_count;
  float scale;
  const float* mask;
  int64_t mask_row_stride;
  float* context;  // the head's first channel, the first query's row
  int64_t context_row_stride;
  float* statistics;  // of each query the largest score and the reciprocal of the exponentials' sum; or null
  Dropout dropout;
  int64_t dropout_row;  // the first query's
};

inline Attend attend_of(const Attention& a) {
  return {a.head_size,
          a.rows,
          a.keys,
          a.key_count,
          a.scale,
          a.mask,
          a.mask_row_stride,
          a.context + a.row_begin * a.context_row_stride,
          a.context_row_stride,
          nullptr,
          {},
          0};
}

// q, k and v of the sequence, side by side, each padded to whole vectors.
template <class Micro>
inline void project(const Attention& a, float* qkv) {
  const int64_t stride = 3 * padded_columns(a.head_size);
  const Product projection{a.x,    a.segments,       a.segment_count, qkv - a.row_begin * stride,
                           stride, Activation::none, a.next};
  product<Micro>(projection, {a.row_begin, a.row_begin + a.rows});
}

inline void attend(const Attend& a, const AttentionScratch& s) {
  const int64_t padded = padded_columns(a.head_size), stride = 3 * padded;
  float* values = s.qkv + 2 * padded;
  if (a.keys) {
    transpose_keys(s.qkv + padded, stride, a.head_size, a.key_count, [&](int64_t j) { return a.keys[j]; }, s.keys);
    for (int64_t j = 0; j < a.key_count; ++j) {
      if (a.keys[j] == j) continue;
      for (int64_t c = 0; c < padded; c += kLanes)
        store(values + j * stride + c, load(values + a.keys[j] * stride + c));
    }
  } else {
    transpose_keys(s.qkv + padded, stride, a.head_size, a.key_count, [](int64_t j) { return j; }, s.keys);
  }

  for (int64_t q0 = 0; q0 < a.queries; q0 += kQueryRows) {
    const int64_t queries = least(kQueryRows, a.queries - q0);
    for (int64_t k0 = 0; k0 < a.key_count; k0 += kKeyBlock) {
      const int64_t keys = least(kKeyBlock, a.key_count - k0);
      times_panels(s.qkv + q0 * stride, stride, queries, s.keys + k0 * a.head_size, a.head_size, keys, s.scores,
                   kKeyBlock);
      for (int64_t q = 0; q < queries; ++q) {
        const float* mask = a.mask ? a.mask + (q0 + q) * a.mask_row_stride + k0 : nullptr;
        float* scores = s.scores + q * kKeyBlock;
        const float rescale = soften(scores, keys, a.scale, mask, s.largest[q], s.total[q], k0 == 0);
        if (a.dropout.threshold) drop_row(a.dropout, a.dropout_row + q0 + q, k0, keys, scores);
        if (k0 == 0) continue;
        for (int64_t c = 0; c < padded; c += kLanes) {
          float* sums = s.sums + q * padded + c;
          store(sums, load(sums) * broadcast(rescale));
        }
      }
      times_rows(s.scores, kKeyBlock, queries, values + k0 * stride, stride, keys, k0 > 0, s.sums, padded,
                 padded / kLanes);
    }
    for (int64_t q = 0; q < queries; ++q) {
      const float inverse = inverse_of(s.largest[q], s.total[q]);
      float* context = a.context + (q0 + q) * a.context_row_stride;
      for_each_vector(a.head_size, [&](int64_t c, int lanes) {
        store_lanes(context + c, load(s.sums + q * padded + c) * broadcast(inverse), lanes);
      });
      if (a.statistics) {
        a.statistics[2 * (q0 + q)] = s.largest[q];
        a.statistics[2 * (q0 + q) + 1] = inverse;
      }
    }
  }
}

// Scores and values on vector registers, in float32.
struct VectorScores {
  static constexpr squeezebert::Precision kPrecision = squeezebert::Precision::float32;

  static int64_t scratch(int64_t rows, int64_t head_size) { return attention_scratch(rows, head_size); }

  template <class Micro>
  static void attention(const Attention& a, char* scratch) {
    const AttentionScratch s = attention_layout(a.rows, a.head_size, scratch);
    project<Micro>(a, s.qkv);
    attend(attend_of(a), s);
  }
};

}  // namespace
