// Pass A's scores and values on matrix units, in bfloat16 with float32 sums: what follows the projection where
// attention.h's float32 would take longer than all products. Included by the instruction-set builds alone.
//
//      q               k^T in panels            scores            weights              v in panels
//   +------+          +------+------+          +---------+      +---------+ rounded   +------+
//   | rows | -------> | keys | keys | -------> | float32 | ---> | e^(x-m) | --------> | keys | --> context
//   +------+          +------+------+          +---------+      +---------+           +------+
//
// Blocks of kQueries queries and kKeys keys, whose scores stay in the first-level cache, with a running maximum and sum
// as in attention.h. Blocks are counted from the sequence's first token, and keys that a mask leaves out are dropped
// before, so a sequence has the same bits in any batch and with any padding.
//
// `Panels` is what the units are: TilePanels (micro/tile_panels.h) or MmlaPanels (micro/mmla_panels.h), with
//
//     Micro                    the micro-kernel for bfloat16
//     kStep                    numbers of bfloat16 that two vectors of float32 are; K is whole steps here
//     kPanel                   columns of a panel; a last one may have fewer, in whole vectors
//     kQueries, kKeys          of a block of scores
//     pack_columns, pack_rows  panels of rows transposed, and of rows as they are
//     times                    y (+)= x * panels
#pragma once
#include "attention.h"
#include "micro/matrix_bfloat16.h"

namespace {

// 2^x for x <= 128, to one part in 9,900 (bfloat16 has one in 256), and 0 below -100: attention.h's `weight_of` says
// why not some 1e-38. Of the polynomials of degree 3 that are exact at 0, where the largest score is, the one whose
// largest relative error on [-1/2, 1/2] is least
// (benchmarks/fit_exponential.py). A NaN stays one.
inline Vec coarse_weight_of(Vec x) {
  const Vec n = round_nearest(x), f = x - n;
  Vec p = broadcast(5.500893147e-2f);
  p = multiply_add(p, f, broadcast(2.422109629e-1f));
  p = multiply_add(p, f, broadcast(6.932829275e-1f));
  p = multiply_add(p, f, broadcast(1.0f));
  return scale_unless_below(x, -100.0f, p, n);
}

// A row rounded to bfloat16, with zeros up to whole steps of two vectors.
inline void round_row(const float* from, int64_t count, uint16_t* to) {
  for (int64_t i = 0; i < count; i += 2 * kLanes) store_pairs(to + i, bfloat_step(from + i, count - i));
}

// The first lanes of v, the others `other`.
inline Vec first_or(Vec v, int lanes, float other) {
  float all[kLanes];
  store(all, v);
  for (int i = lanes; i < kLanes; ++i) all[i] = other;
  return load(all);
}

template <class Panels>
struct MatrixScores {
  static constexpr squeezebert::Precision kPrecision = squeezebert::Precision::bfloat16;
  static constexpr int64_t kQueries = Panels::kQueries, kKeys = Panels::kKeys, kStep = Panels::kStep;
  static_assert(kStep == 2 * kLanes, "a step is two vectors");
  static_assert(kKeys % Panels::kPanel == 0 && kKeys % kStep == 0, "blocks are whole panels and steps");

  struct Layout {
    float* projected;  // [rows, 3 * padded head size], where the projection is a sum of segments
    uint16_t* qkv;     // [whole blocks of rows, 3 * padded head size]
    uint16_t* q;       // [whole blocks of rows, width]; in place where a head is whole steps
    int64_t q_row_stride;
    uint16_t* k;             // panels of keys
    uint16_t* v;             // of each block of keys, panels of the head's channels
    float* scores;           // [kQueries, kKeys]
    uint16_t* weights;       // the same
    float* sums;             // [kQueries, width]
    float *largest, *total;  // [kQueries]
    int64_t width;           // the head's channels, whole steps
    int64_t bytes;
  };

  static Layout layout(int64_t rows, int64_t head_size, char* scratch) {
    Layout s;
    ScratchCut cut{scratch};
    const int64_t queries = round_up(rows, kQueries), stride = 3 * padded_columns(head_size);
    s.projected = cut.take<float>(rows * stride);
    s.qkv = cut.take<uint16_t>(queries * stride);
    const bool in_place = head_size % kStep == 0;
    take_blocks(in_place ? 0 : rows, rows, head_size, cut, s);
    if (in_place) {
      s.q = s.qkv;
      s.q_row_stride = stride;
    }
    s.bytes = cut.bytes;
    return s;
  }

  // What `attend` reads and needs.
  static void take_blocks(int64_t queries, int64_t keys, int64_t head_size, ScratchCut& cut, Layout& s) {
    s.width = s.q_row_stride = round_up(head_size, kStep);
    s.q = cut.take<uint16_t>(round_up(queries, kQueries) * s.width);
    s.k = cut.take<uint16_t>(round_up(keys, kStep) * s.width);
    s.v = cut.take<uint16_t>(round_up(keys, kStep) * s.width);
    s.scores = cut.take<float>(kQueries * kKeys);
    s.weights = cut.take<uint16_t>(kQueries * kKeys);
    s.sums = cut.take<float>(kQueries * s.width);
    s.largest = cut.take<float>(kQueries);
    s.total = cut.take<float>(kQueries);
  }

  static int64_t scratch(int64_t rows, int64_t head_size) { return layout(rows, head_size, nullptr).bytes; }

  // A step's numbers of a row of `size`, from channel c; 0 beyond its end.
  static Vec load_step(const uint16_t* row, int64_t c, int64_t size) {
    return c + kStep <= size ? load_pairs(row + c) : load_first_pairs(row + c, static_cast<int>(size - c));
  }

  static void copy_queries(int64_t rows, int64_t head_size, const Layout& s) {
    const int64_t stride = 3 * padded_columns(head_size);
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t c = 0; c < s.width; c += kStep) {
        store_pairs(s.q + r * s.width + c, load_step(s.qkv + r * stride, c, head_size));
      }
    }
  }

  // load(j, c): a step of the j-th of `count` keys, from its channel c.
  template <class Load>
  static void pack_keys(Load load, int64_t count, int64_t width, uint16_t* panels) {
    const auto load_key = [&](int64_t j, int64_t c) { return j < count ? load(j, c) : broadcast(0.0f); };
    Panels::pack_columns(load_key, round_up(count, kStep), width, panels);
  }

  template <class Load>
  static void pack_values(Load load, int64_t count, int64_t width, uint16_t* panels) {
    for (int64_t k0 = 0; k0 < count; k0 += kKeys) {
      const auto load_value = [&](int64_t j, int64_t c) { return k0 + j < count ? load(k0 + j, c) : broadcast(0.0f); };
      Panels::pack_rows(load_value, round_up(least(kKeys, count - k0), kStep), width, panels + k0 * width);
    }
  }

  // attention.h's `soften`, to weights rounded to bfloat16; those past the last key are 0, for whole steps. Without a
  // mask products are compared and subtracted as they are, and their scale is a factor of the difference: so is
  // `largest`.
  template <bool kMasked>
  static float soften(const float* scores, int64_t count, float scale, const float* mask, uint16_t* weights,
                      float& largest, float& total, bool first) {
    const float unit = kMasked ? 1.0f : scale;
    const Vec factor = broadcast(scale);
    const auto score = [&](int64_t i, int lanes) {
      const Vec s = load(scores + i);  // in whole steps
      return kMasked ? multiply_add(s, factor, load_lanes(mask + i, lanes)) : s;
    };
    const Vec lowest = broadcast(-__builtin_inff());
    Vec most = lowest, most_of_others = lowest;
    int64_t i = 0;
    for (; i + kStep <= count; i += kStep) {
      most = maximum(most, score(i, kLanes));
      most_of_others = maximum(most_of_others, score(i + kLanes, kLanes));
    }
    for_each_vector(count - i, [&](int64_t j, int lanes) {
      const Vec v = score(i + j, lanes);
      most = maximum(most, lanes == kLanes ? v : first_or(v, lanes, -__builtin_inff()));
    });
    const float before = largest, here = largest_lane(maximum(most, most_of_others));
    largest = first || here > before ? here : before;
    const float origin = largest == -__builtin_inff() ? 0.0f : largest;
    const Vec to_power = broadcast(unit * 1.44269504f), of_all = broadcast(origin);
    const auto weight = [&](int64_t at, int lanes) { return coarse_weight_of((score(at, lanes) - of_all) * to_power); };
    Vec sum = broadcast(0.0f), sum_of_others = sum;
    for (i = 0; i + kStep <= count; i += kStep) {
      const Vec here_first = weight(i, kLanes), here_second = weight(i + kLanes, kLanes);
      sum = sum + here_first;
      sum_of_others = sum_of_others + here_second;
      store_pairs(weights + i, bfloat_pairs(here_first, here_second));
    }
    if (i < count) {
      Vec rest[2] = {broadcast(0.0f), broadcast(0.0f)};
      for_each_vector(count - i, [&](int64_t j, int lanes) {
        const Vec v = weight(i + j, lanes);
        rest[j / kLanes] = lanes == kLanes ? v : first_or(v, lanes, 0.0f);
      });
      sum = sum + rest[0];
      sum_of_others = sum_of_others + rest[1];
      store_pairs(weights + i, bfloat_pairs(rest[0], rest[1]));
    }
    float rescale = 0.0f;
    if (!first) {
      float lanes[kLanes];
      store(lanes, exponential(broadcast((before - origin) * unit)));
      rescale = lanes[0];
    }
    total = (first ? 0.0f : total * rescale) + sum_of_lanes(sum + sum_of_others);
    return rescale;
  }

  // attention.h's weights, with dropout, rounded to bfloat16: in training, where the backward computes them again. By
  // `coarse_weight_of` they would not add up to 1, and what is left of a gradient whose terms cancel would be wrong.
  static float soften_for_training(const Attend& a, int64_t query, int64_t k0, int64_t keys, float* scores,
                                   uint16_t* weights, float& largest, float& total) {
    const float* mask = a.mask ? a.mask + query * a.mask_row_stride + k0 : nullptr;
    const float rescale = ::soften(scores, keys, a.scale, mask, largest, total, k0 == 0);
    if (a.dropout.threshold) drop_row(a.dropout, a.dropout_row + query, k0, keys, scores);
    round_row(scores, keys, weights);
    return rescale;
  }

  // `rounded_context`: in place of the context, or null.
  template <bool kTraining>
  static void attend(Panels& panels, const Attend& a, uint16_t* rounded_context, int64_t rounded_context_row_stride,
                     const Layout& s) {
    for (int64_t q0 = 0; q0 < a.queries; q0 += kQueries) {
      const int64_t queries = least(kQueries, a.queries - q0);
      for (int64_t k0 = 0; k0 < a.key_count; k0 += kKeys) {
        const int64_t keys = least(kKeys, a.key_count - k0), whole = round_up(keys, kStep);
        panels.times(queries, s.q + q0 * s.q_row_stride, s.q_row_stride, s.width, s.k + k0 * s.width, whole, false,
                     s.scores, kKeys);
        for (int64_t q = 0; q < queries; ++q) {
          float* scores = s.scores + q * kKeys;
          uint16_t* weights = s.weights + q * kKeys;
          float rescale;
          if constexpr (kTraining) {
            rescale = soften_for_training(a, q0 + q, k0, keys, scores, weights, s.largest[q], s.total[q]);
          } else {
            const float* mask = a.mask ? a.mask + (q0 + q) * a.mask_row_stride + k0 : nullptr;
            const auto run = mask ? soften<true> : soften<false>;
            rescale = run(scores, keys, a.scale, mask, weights, s.largest[q], s.total[q], k0 == 0);
          }
          if (k0 == 0) continue;
          for (int64_t c = 0; c < s.width; c += kLanes) {
            float* sums = s.sums + q * s.width + c;
            store(sums, load(sums) * broadcast(rescale));
          }
        }
        panels.times(queries, s.weights, kKeys, whole, s.v + k0 * s.width, s.width, k0 > 0, s.sums, s.width);
      }
      if (a.statistics) {
        for (int64_t q = 0; q < queries; ++q) {
          a.statistics[2 * (q0 + q)] = s.largest[q];
          a.statistics[2 * (q0 + q) + 1] = inverse_of(s.largest[q], s.total[q]);
        }
      }
      if (rounded_context) {
        round_rows(a.head_size, queries, rounded_context + q0 * rounded_context_row_stride, rounded_context_row_stride,
                   s);
      } else {
        finish_rows(a, q0, queries, s);
      }
    }
  }

  static void round_rows(int64_t head_size, int64_t queries, uint16_t* rounded, int64_t row_stride, const Layout& s) {
    for (int64_t q = 0; q < queries; ++q) {
      const Vec inverse = broadcast(inverse_of(s.largest[q], s.total[q]));
      uint16_t* context = rounded + q * row_stride;
      for (int64_t c = 0; c < head_size; c += kStep) {
        const float* sums = s.sums + q * s.width + c;
        const Vec pairs = bfloat_pairs(load(sums) * inverse, load(sums + kLanes) * inverse);
        if (c + kStep <= head_size) {
          store_pairs(context + c, pairs);
        } else {
          store_first_pairs(context + c, pairs, static_cast<int>(head_size - c));
        }
      }
    }
  }

  static void finish_rows(const Attend& a, int64_t q0, int64_t queries, const Layout& s) {
    for (int64_t q = 0; q < queries; ++q) {
      const Vec inverse = broadcast(inverse_of(s.largest[q], s.total[q]));
      float* context = a.context + (q0 + q) * a.context_row_stride;
      for_each_vector(a.head_size, [&](int64_t c, int lanes) {
        store_lanes(context + c, load(s.sums + q * s.width + c) * inverse, lanes);
      });
    }
  }

  template <class Projection>
  static void attention(const Attention& call, char* scratch) {
    const Layout s = layout(call.rows, call.head_size, scratch);
    const Attend a = attend_of(call);
    const int64_t padded = padded_columns(a.head_size), stride = 3 * padded;
    {
      Projection micro(call.rows);
      const Product projection{call.x, call.segments,    call.segment_count, s.projected - call.row_begin * stride,
                               stride, Activation::none, call.next};
      run_product(micro, projection, {call.row_begin, call.row_begin + call.rows}, s.qkv - call.row_begin * stride,
                  stride);
    }
    if (s.q != s.qkv) copy_queries(a.queries, a.head_size, s);
    const auto pack = [&](auto row_of) {
      const uint16_t *k = s.qkv + padded, *v = k + padded;
      pack_keys([&](int64_t j, int64_t c) { return load_step(k + row_of(j) * stride, c, a.head_size); }, a.key_count,
                s.width, s.k);
      pack_values([&](int64_t j, int64_t c) { return load_step(v + row_of(j) * stride, c, a.head_size); }, a.key_count,
                  s.width, s.v);
    };
    if (a.keys) {
      pack([&](int64_t j) { return a.keys[j]; });
    } else {
      pack([](int64_t j) { return j; });
    }
    Panels panels;
    const int64_t rounded_stride = call.rounded_context_row_stride;
    attend<false>(panels, a, call.rounded_context ? call.rounded_context + call.row_begin * rounded_stride : nullptr,
                  rounded_stride, s);
  }
};

}  // namespace
