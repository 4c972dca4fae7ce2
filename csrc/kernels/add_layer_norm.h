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

// Mean first, then the mean square of the differences from it, as PyTorch does.
inline Moments moments_of(const float* row, int64_t channels, float eps) {
  const float count = static_cast<float>(channels);
  Vec total = broadcast(0.0f);
  for_each_vector(channels, [&](int64_t i, int lanes) { total = total + load_lanes(row + i, lanes); });
  const float mean = sum_of_lanes(total) / count;
  Vec squares = broadcast(0.0f);
  for_each_vector(channels, [&](int64_t i, int lanes) {
    const Vec difference = load_lanes(row + i, lanes) - broadcast(mean);
    if (lanes == kLanes) {
      squares = multiply_add(difference, difference, squares);
    } else {  // lanes beyond the row hold -mean
      float rest[kLanes];
      store(rest, difference * difference);
      squares = squares + load_first(rest, lanes);
    }
  });
  const float variance = sum_of_lanes(squares) / count;
  float reciprocal[kLanes];
  store(reciprocal, broadcast(1.0f) / square_root(broadcast(variance + eps)));
  return {mean, reciprocal[0]};
}

inline void scale_row(const float* row, const Moments& moments, const float* weight, const float* bias,
                      int64_t channels, float* y) {
  for_each_vector(channels, [&](int64_t i, int lanes) {
    const Vec scaled = (load_lanes(row + i, lanes) - broadcast(moments.mean)) * broadcast(moments.reciprocal);
    store_lanes(y + i, multiply_add(scaled, load_lanes(weight + i, lanes), load_lanes(bias + i, lanes)), lanes);
  });
}

// Adds the residual, if there is one, and normalises, in place.
inline void normalize_row(float* y, const float* residual, const AddLayerNorm& norm) {
  if (residual) {
    for_each_vector(norm.channels, [&](int64_t i, int lanes) {
      store_lanes(y + i, load_lanes(y + i, lanes) + load_lanes(residual + i, lanes), lanes);
    });
  }
  scale_row(y, moments_of(y, norm.channels, norm.eps), norm.weight, norm.bias, norm.channels, y);
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
