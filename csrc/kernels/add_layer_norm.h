// y = layer_norm(y + residual), row by row, and the operands that the next product reads: the end of passes B and C.
// Included by the instruction-set builds alone.
#pragma once
#include "formats.h"
#include "vectors.h"

namespace {

using squeezebert::AddLayerNorm;

struct Moments {
  float mean, reciprocal;  // of the deviation
};

// Sums over a row, vector by vector, as several chains: of one, each addition would wait for the one before.
template <class Visit>
inline float sum_of_row(int64_t channels, Visit visit) {
  constexpr int kChains = 4;
  Vec total[kChains];
  for (Vec& chain : total) chain = broadcast(0.0f);
  int64_t i = 0;
  for (; i + kChains * kLanes <= channels; i += kChains * kLanes) {
#pragma GCC unroll 4
    for (int chain = 0; chain < kChains; ++chain) total[chain] = visit(i + chain * kLanes, kLanes, total[chain]);
  }
  for_each_vector(channels - i, [&](int64_t j, int lanes) { total[0] = visit(i + j, lanes, total[0]); });
  return sum_of_lanes((total[0] + total[1]) + (total[2] + total[3]));
}

// Mean first, then the mean square of the differences from it, as PyTorch does. The residual, unless it is null, is
// added to the row before.
inline Moments moments_of(float* row, const float* residual, int64_t channels, float eps) {
  const float count = static_cast<float>(channels);
  const float total =
      residual ? sum_of_row(channels,
                            [&](int64_t i, int lanes, Vec sum) {
                              const Vec v = load_lanes(row + i, lanes) + load_lanes(residual + i, lanes);
                              store_lanes(row + i, v, lanes);
                              return sum + v;
                            })
               : sum_of_row(channels, [&](int64_t i, int lanes, Vec sum) { return sum + load_lanes(row + i, lanes); });
  const float mean = total / count;
  const float squares = sum_of_row(channels, [&](int64_t i, int lanes, Vec sum) {
    const Vec difference = load_lanes(row + i, lanes) - broadcast(mean);
    if (lanes == kLanes) return multiply_add(difference, difference, sum);
    float rest[kLanes];  // lanes beyond the row hold -mean
    store(rest, difference * difference);
    return sum + load_first(rest, lanes);
  });
  float reciprocal[kLanes];
  store(reciprocal, broadcast(1.0f) / square_root(broadcast(squares / count + eps)));
  return {mean, reciprocal[0]};
}

template <class T>
inline void scale_row(const float* row, const Moments& moments, const float* weight, const float* bias,
                      int64_t channels, T* y) {
  for_each_vector(channels, [&](int64_t i, int lanes) {
    const Vec scaled = (load_lanes(row + i, lanes) - broadcast(moments.mean)) * broadcast(moments.reciprocal);
    store_lanes(y + i, multiply_add(scaled, load_lanes(weight + i, lanes), load_lanes(bias + i, lanes)), lanes);
  });
}

// Adds the residual, if there is one, and normalises, in place.
inline void normalize_row(float* y, const float* residual, const AddLayerNorm& norm) {
  const Moments moments = moments_of(y, residual, norm.channels, norm.eps);
  scale_row(y, moments, norm.weight, norm.bias, norm.channels, y);
}

template <class Format>
inline void add_layer_norm(const AddLayerNorm& norm, Rows rows) {
  for (int64_t r = rows.begin; r < rows.end; ++r) {
    float* y = norm.y + r * norm.y_row_stride;
    normalize_row(y, norm.residual ? norm.residual + r * norm.residual_row_stride : nullptr, norm);
    if (norm.next.data) Format::prepare(norm.y, norm.y_row_stride, {r, r + 1}, norm.next);
  }
}

}  // namespace
