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
#include "weight_gradient.h"

namespace {

using squeezebert::FeedForwardBackward;

constexpr int64_t kFeedForwardBackwardRows = 128;  // whole vectors and tiles of every build

// Rows as a product's operands: they themselves, or rounded into scratch.
template <class Gradients>
inline int64_t gradient_operands_bytes(int64_t channels) {
  using Format = typename Gradients::Micro::Format;
  const int64_t bytes = kFeedForwardBackwardRows * channels * static_cast<int64_t>(sizeof(typename Format::Operand));
  return Format::kInPlace ? 0 : round_up(bytes, 64);
}

// `from` is at the first of `channels`, which segments count from `begin`.
template <class Gradients>
inline Operands gradient_operands(const float* from, int64_t row_stride, Rows rows, int64_t begin, int64_t channels,
                                  char* scratch) {
  using Format = typename Gradients::Micro::Format;
  if constexpr (Format::kInPlace) {
    return {const_cast<float*>(from) - begin, row_stride, nullptr, 1, 0};
  } else {
    Format::prepare(from, row_stride, rows, {scratch, channels, nullptr, 1, channels});
    return {reinterpret_cast<typename Format::Operand*>(scratch) - begin, channels, nullptr, 1, 0};
  }
}

template <class Gradients>
inline int64_t feed_forward_backward_scratch(int64_t in, int64_t hidden, int64_t out) {
  const int64_t hidden_rows = 2 * kFeedForwardBackwardRows * hidden * static_cast<int64_t>(sizeof(float));
  const int64_t widest = in > out ? (in > hidden ? in : hidden) : (out > hidden ? out : hidden);
  const int64_t operands = gradient_operands_bytes<Gradients>(widest);
  const int64_t of_in = weight_gradient_scratch<Gradients>(hidden, in);
  const int64_t of_out = weight_gradient_scratch<Gradients>(out, hidden);
  const int64_t of_weights = of_in > of_out ? of_in : of_out;
  return round_up(hidden_rows, 64) + (operands > of_weights ? operands : of_weights);
}

template <class Gradients>
inline void feed_forward_backward(const FeedForwardBackward& b, char* scratch) {
  using Micro = typename Gradients::Micro;
  for (int64_t c = 0; c < b.chunk_count; ++c) {
    const FeedForwardBackward::Chunk& chunk = b.chunks[c];
    const int64_t width = chunk.hidden;
    float* z = reinterpret_cast<float*>(scratch);  // [rows, width]
    float* grad_z = z + kFeedForwardBackwardRows * width;
    char* rest = scratch + round_up(2 * kFeedForwardBackwardRows * width * static_cast<int64_t>(sizeof(float)), 64);
    bool first_block = true;
    for (int64_t first = 0; first < b.rows || first_block; first += kFeedForwardBackwardRows, first_block = false) {
      const Rows rows{0, least(kFeedForwardBackwardRows, b.rows - first)};
      const float *x = b.x + first * b.x_row_stride, *grad = b.grad + first * b.grad_row_stride;
      // Products and gradients of weights follow each other, in the same scratch.
      const Operands from_x =
          gradient_operands<Gradients>(x + b.in_begin, b.x_row_stride, rows, b.in_begin, b.in, rest);
      product<Micro>({from_x, chunk.in, chunk.in_count, z - chunk.hidden_begin, width, Activation::none, nullptr, true},
                     rows);
      const Operands from_grad =
          gradient_operands<Gradients>(grad + b.out_begin, b.grad_row_stride, rows, b.out_begin, b.out, rest);
      product<Micro>({from_grad, chunk.back_out, chunk.back_out_count, grad_z - chunk.hidden_begin, width,
                      Activation::none, nullptr, true},
                     rows);
      activation_backward(b.activation, true, z, grad_z, rows.end * width);
      if (b.grad_x) {
        const Operands from_z = gradient_operands<Gradients>(grad_z, width, rows, chunk.hidden_begin, width, rest);
        product<Micro>({from_z, chunk.back_in, chunk.back_in_count, b.grad_x + first * b.grad_x_row_stride,
                        b.grad_x_row_stride, Activation::none, nullptr, false, true},
                       rows);
      }
      if (chunk.grad_in) {
        weight_gradient<Gradients>({grad_z, width, x + b.in_begin, b.x_row_stride, rows.end, width, b.in, !first_block,
                                    chunk.grad_in, b.in, chunk.grad_bias_in},
                                   rest);
      }
      if (chunk.grad_out) {
        weight_gradient<Gradients>({grad + b.out_begin, b.grad_row_stride, z, width, rows.end, b.out, width,
                                    !first_block, chunk.grad_out, b.grad_out_row_stride, chunk.grad_bias_out},
                                   rest);
      }
    }
  }
}

}  // namespace
