// y = layer_norm(dropout(x) + residual) that keeps what its gradient needs, and the gradient.
// Included by the instruction-set builds alone.
#pragma once
#include "dropout.h"

namespace {

using squeezebert::AddLayerNormBackward;
using squeezebert::AddLayerNormForward;

// The sum before the norm is rounded where tensors are, but not what the norm is of.
template <class T>
inline void add_layer_norm_forward_of(const AddLayerNormForward& norm, Rows rows, float* row) {
  for (int64_t r = rows.begin; r < rows.end; ++r) {
    const int64_t offset = r * norm.channels;
    const T *x = static_cast<const T*>(norm.x) + offset, *residual = static_cast<const T*>(norm.residual) + offset;
    T *total = static_cast<T*>(norm.total) + offset, *y = static_cast<T*>(norm.y) + offset;
    const auto keep = [&](int64_t i, int lanes, Vec sum) {
      store_lanes(row + i, sum, lanes);
      store_lanes(total + i, sum, lanes);
    };
    if (norm.dropout.threshold) {
      for_each_kept(norm.dropout, r, 0, norm.channels, [&](int64_t i, int lanes, Vec factor) {
        keep(i, lanes, load_lanes(x + i, lanes) * factor + load_lanes(residual + i, lanes));
      });
    } else {
      for_each_vector(norm.channels, [&](int64_t i, int lanes) {
        keep(i, lanes, load_lanes(x + i, lanes) + load_lanes(residual + i, lanes));
      });
    }
    const Moments moments = moments_of(row, nullptr, norm.channels, norm.eps);
    scale_row(row, moments, norm.weight, norm.bias, norm.channels, y);
    norm.mean[r] = moments.mean;
    norm.reciprocal[r] = moments.reciprocal;
  }
}

inline void add_layer_norm_forward(const AddLayerNormForward& norm, Rows rows, float* row) {
  with_element(norm.element, [&](auto type) { add_layer_norm_forward_of<decltype(type)>(norm, rows, row); });
}

// With n the normalised row and g = grad weight, the gradient of the total is
// reciprocal (g - mean(g) - n mean(g n)).
template <class T>
inline void add_layer_norm_backward_of(const AddLayerNormBackward& norm, Rows rows, float* row) {
  const float count = static_cast<float>(norm.channels);
  bool first = true;
  for (int64_t r = rows.begin; r < rows.end; ++r, first = false) {
    const int64_t offset = r * norm.channels;
    const T *grad = static_cast<const T*>(norm.grad) + offset, *total = static_cast<const T*>(norm.total) + offset;
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
    if (!norm.grad_residual && !norm.grad_x) continue;
    Vec sum = broadcast(0.0f), product = broadcast(0.0f);
    for_each_vector(norm.channels, [&](int64_t i, int lanes) {
      const Vec g = load_lanes(grad + i, lanes) * load_lanes(norm.weight + i, lanes);  // 0 beyond the row
      sum = sum + g;
      product = multiply_add(g, normalized(i, lanes), product);
    });
    const Vec shift = broadcast(sum_of_lanes(sum) / count), slope = broadcast(sum_of_lanes(product) / count);
    T* of_residual = norm.grad_residual ? static_cast<T*>(norm.grad_residual) + offset : nullptr;
    T* of_x = norm.grad_x ? static_cast<T*>(norm.grad_x) + offset : nullptr;
    for_each_vector(norm.channels, [&](int64_t i, int lanes) {
      const Vec g = load_lanes(grad + i, lanes) * load_lanes(norm.weight + i, lanes);
      const Vec of_total = (g - shift - normalized(i, lanes) * slope) * reciprocal;
      store_lanes(row + i, of_total, lanes);
      if (of_residual) store_lanes(of_residual + i, of_total, lanes);
      if (of_x && !norm.dropout.threshold) store_lanes(of_x + i, of_total, lanes);
    });
    if (of_x && norm.dropout.threshold) {
      for_each_kept(norm.dropout, r, 0, norm.channels, [&](int64_t i, int lanes, Vec factor) {
        store_lanes(of_x + i, load_lanes(row + i, lanes) * factor, lanes);
      });
    }
  }
}

inline void add_layer_norm_backward(const AddLayerNormBackward& norm, Rows rows, float* row) {
  with_element(norm.element, [&](auto type) { add_layer_norm_backward_of<decltype(type)>(norm, rows, row); });
}

}  // namespace
