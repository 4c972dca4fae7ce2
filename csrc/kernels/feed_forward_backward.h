// The gradient of act(x * in^T + bias) * out^T + bias for one group and a stretch of its hidden channels. Included by
// the instruction-set builds alone.
//
//     for each chunk of the hidden channels:              its weights and their gradients stay in the second-level
//     cache
//       for each block of rows:                           z, its gradient and the copies for products too
//         z  = x in^T + bias,    dz = (grad out) * act'(z)
//         dx += dz in,           din += dz^T x,    dout += grad^T act(z)
//
// So the hidden rows are computed again, and are never in main memory.
#pragma once
#include "activation_gradients.h"
#include "bfloat_rows.h"
#include "weight_gradient.h"

namespace {

using squeezebert::FeedForwardBackward;

constexpr int64_t kFeedForwardBackwardRows = 128;  // whole vectors and tiles of every build

// The hidden rows and their gradient, [rows, width] each; the rest is for one product or gradient after the other.
struct HiddenRows {
  float *z, *grad_z;
  ScratchCut rest;

  HiddenRows(char* scratch, int64_t width) : rest{scratch} {
    z = rest.take<float>(kFeedForwardBackwardRows * width);
    grad_z = rest.take<float>(kFeedForwardBackwardRows * width);
  }
};

// Rows as a product's operands.
template <class Gradients>
struct GradientOperands {
  using Format = typename Gradients::Micro::Format;
  using Operand = typename Format::Operand;
  typename Format::Operand* data;
  float* scale;

  // Returns the bytes.
  int64_t cut(ScratchCut scratch, int64_t channels) {
    data = scratch.take<Operand>(kFeedForwardBackwardRows * Format::kPlanes * channels);
    scale = scratch.take<float>(Format::kScaled ? kFeedForwardBackwardRows : 0);
    return scratch.bytes;
  }

  // `from` is at the first of `channels`, which segments count from `begin`.
  template <class T>
  static Operands of(const T* from, int64_t row_stride, Rows rows, int64_t begin, int64_t channels,
                     ScratchCut scratch) {
    constexpr bool kAsTheyAre = sizeof(T) == sizeof(Operand) && Format::kPlanes == 1;
    if constexpr (kAsTheyAre) {
      return {const_cast<T*>(from) - begin, row_stride, nullptr, 1, 0};
    } else {
      GradientOperands made;
      made.cut(scratch, channels);
      if constexpr (Format::kInPlace) {
        copy_rows(from, row_stride, channels, rows, made.data, channels);
      } else {
        Format::prepare(from, row_stride, rows, {made.data, channels, made.scale, 1, channels});
      }
      return {made.data - begin, channels, made.scale, 1, 0};
    }
  }
};

template <class Gradients>
inline int64_t feed_forward_backward_scratch(int64_t in, int64_t hidden, int64_t out) {
  const ScratchCut rest = HiddenRows(nullptr, hidden).rest;
  const int64_t widest = in > out ? (in > hidden ? in : hidden) : (out > hidden ? out : hidden);
  const int64_t operands = GradientOperands<Gradients>{}.cut(rest, widest);
  const int64_t of_in = weight_gradient_scratch<Gradients>(hidden, in);
  const int64_t of_out = weight_gradient_scratch<Gradients>(out, hidden);
  const int64_t of_weights = rest.bytes + (of_in > of_out ? of_in : of_out);
  return operands > of_weights ? operands : of_weights;
}

template <class Gradients, class T>
inline void feed_forward_backward_of(const FeedForwardBackward& b, char* scratch) {
  using Micro = typename Gradients::Micro;
  for (int64_t c = 0; c < b.chunk_count; ++c) {
    const FeedForwardBackward::Chunk& chunk = b.chunks[c];
    const int64_t width = chunk.hidden;
    const auto [z, grad_z, rest] = HiddenRows(scratch, width);
    char* const of_gradients = rest.scratch + rest.bytes;
    bool first_block = true;
    for (int64_t first = 0; first < b.rows || first_block; first += kFeedForwardBackwardRows, first_block = false) {
      const Rows rows{0, least(kFeedForwardBackwardRows, b.rows - first)};
      const T* x = static_cast<const T*>(b.x) + first * b.x_row_stride;
      const T* grad = static_cast<const T*>(b.grad) + first * b.grad_row_stride;
      // Products and gradients of weights follow each other, in the same scratch.
      const Operands from_x =
          GradientOperands<Gradients>::of(x + b.in_begin, b.x_row_stride, rows, b.in_begin, b.in, rest);
      product<Micro>({from_x, chunk.in, chunk.in_count, z - chunk.hidden_begin, width, Activation::none, nullptr, true},
                     rows);
      const Operands from_grad =
          GradientOperands<Gradients>::of(grad + b.out_begin, b.grad_row_stride, rows, b.out_begin, b.out, rest);
      product<Micro>({from_grad, chunk.back_out, chunk.back_out_count, grad_z - chunk.hidden_begin, width,
                      Activation::none, nullptr, true},
                     rows);
      activation_backward(b.activation, true, z, grad_z, rows.end * width);
      if (b.grad_x) {
        const Operands from_z = GradientOperands<Gradients>::of(grad_z, width, rows, chunk.hidden_begin, width, rest);
        product<Micro>({from_z, chunk.back_in, chunk.back_in_count, b.grad_x + first * b.grad_x_row_stride,
                        b.grad_x_row_stride, Activation::none, nullptr, false, true},
                       rows);
      }
      if (chunk.grad_in) {
        weight_gradient<Gradients>({grad_z, width, x + b.in_begin, b.x_row_stride, rows.end, width, b.in, !first_block,
                                    chunk.grad_in, b.in, chunk.grad_bias_in, Element::float32, b.element},
                                   of_gradients);
      }
      if (chunk.grad_out) {
        weight_gradient<Gradients>(
            {grad + b.out_begin, b.grad_row_stride, z, width, rows.end, b.out, width, !first_block, chunk.grad_out,
             b.grad_out_row_stride, chunk.grad_bias_out, b.element, Element::float32},
            of_gradients);
      }
    }
  }
}

template <class Gradients>
inline void feed_forward_backward(const FeedForwardBackward& b, char* scratch) {
  with_element_of<Gradients>(b.element,
                             [&](auto type) { feed_forward_backward_of<Gradients, decltype(type)>(b, scratch); });
}

}  // namespace
