// y = layer_norm(dropout(x) + residual) that keeps what its gradient needs, and the gradient.
// Included by the instruction-set builds alone.
#pragma once
#include "dropout.h"

namespace {

using squeezebert::AddLayerNormBackward;
using squeezebert::AddLayerNormForward;

inline void add_layer_norm_forward(const AddLayerNormForward& norm, Rows rows) {
  for (int64_t r = rows.begin; r < rows.end; ++r) {
    const int64_t offset = r * norm.channels;
    const float *x = norm.x + offset, *residual = norm.residual + offset;
    float *total = norm.total + offset, *y = norm.y + offset;
    if (norm.dropout.threshold) {
      for_each_kept(norm.dropout, r, 0, norm.channels, [&](int64_t i, int lanes, Vec factor) {
        store_lanes(total + i, load_lanes(x + i, lanes) * factor + load_lanes(residual + i, lanes), lanes);
      });
    } else {
      for_each_vector(norm.channels, [&](int64_t i, int lanes) {
        store_lanes(total + i, load_lanes(x + i, lanes) + load_lanes(residual + i, lanes), lanes);
      });
    }
    const Moments moments = moments_of(total, nullptr, norm.channels, norm.eps);
    scale_row(total, moments, norm.weight, norm.bias, norm.channels, y);
    norm.mean[r] = moments.mean;
    norm.reciprocal[r] = moments.reciprocal;
  }
}

// With n the normalised row and g = grad weight, the gradient of the total is
// reciprocal (g - mean(g) - n mean(g n)).
inline void add_layer_norm_backward(const AddLayerNormBackward& norm, Rows rows) {
  const float count = static_cast<float>(norm.channels);
  bool first = true;
  for (int64_t r = rows.begin; r < rows.end; ++r, first = false) {
    const int64_t offset = r * norm.channels;
    const float *grad = norm.grad + offset, *total = norm.total + offset;
    const Vec mean = broadcast(norm.mean[r]), reciprocal = broadcast(norm.reciprocal[r]);
    const auto normalized = [&](int64_t i, int lanes) { return (load_lanes(total + i, lanes) - mean) * reciprocal; };
    if (norm.grad_weight) {
      for_each_vector(norm.channels, [&](int64_t i, int lanes) {
        const Vec g = load_lanes(grad + i, lanes), part = g * normalized(i, lanes);
        store_lanes(norm.grad_weight + i, first ? part : load_lanes(norm.grad_weight + i, lanes) + part, lanes);
      });
    }
    if (norm.grad_bias) {
      for_each_vector(norm.channels, [&](int64_t i, int lanes) {
        const Vec g = load_lanes(grad + i, lanes);
        store_lanes(norm.grad_bias + i, first ? g : load_lanes(norm.grad_bias + i, lanes) + g, lanes);
      });
    }
    float* written = norm.grad_residual ? norm.grad_residual : norm.grad_x;
    if (!written) continue;
    written += offset;
    Vec sum = broadcast(0.0f), product = broadcast(0.0f);
    for_each_vector(norm.channels, [&](int64_t i, int lanes) {
      const Vec g = load_lanes(grad + i, lanes) * load_lanes(norm.weight + i, lanes);  // 0 beyond the row
      sum = sum + g;
      product = multiply_add(g, normalized(i, lanes), product);
    });
    const Vec shift = broadcast(sum_of_lanes(sum) / count), slope = broadcast(sum_of_lanes(product) / count);
    for_each_vector(norm.channels, [&](int64_t i, int lanes) {
      const Vec g = load_lanes(grad + i, lanes) * load_lanes(norm.weight + i, lanes);
      store_lanes(written + i, (g - shift - normalized(i, lanes) * slope) * reciprocal, lanes);
    });
    if (!norm.grad_x) continue;
    float* grad_x = norm.grad_x + offset;
    if (norm.dropout.threshold) {
      for_each_kept(norm.dropout, r, 0, norm.channels, [&](int64_t i, int lanes, Vec factor) {
        store_lanes(grad_x + i, load_lanes(written + i, lanes) * factor, lanes);
      });
    } else if (grad_x != written) {
      for_each_vector(norm.channels,
                      [&](int64_t i, int lanes) { store_lanes(grad_x + i, load_lanes(written + i, lanes), lanes); });
    }
  }
}

}  // namespace
