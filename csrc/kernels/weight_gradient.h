// y (+)= grad^T x: the gradient of a product's weights, with the sums of grad's columns, the bias's.
// Included by the instruction-set builds alone.
//
// Rows are the depth of this product. Of Gradients::kRows of them at a time, grad is transposed, x is packed into
// panels, and the product is that of the forward. Both copies stay in the second-level cache, a panel and a tile's
// operands in the first.
//
// `Gradients` is what runs products of gradients: VectorGradients in float32, and those of matrix_gradients.h and
// parts_gradients.h.
//
//     Micro                   the micro-kernel
//     kRows                   at a time: whole steps
//     kRowStep                rows of grad that are transposed at once
//     transpose               grad [rows, columns] to operands [columns, rows], zero up to whole steps of rows
//     pack                    x [rows, columns] to panels
//     add_up                  the bias: from grad [rows, columns], or from what `transpose` made of it
//
// grad and x are of float32 or bfloat16. Where the format has scales, the first two write one for each column.
#pragma once
#include "panels.h"
#include "product.h"
#include "scratch_cut.h"

namespace {

using squeezebert::Element;
using squeezebert::WeightGradient;

template <class M>
struct VectorGradients {
  using Micro = M;
  static constexpr int64_t kRowStep = kLanes, kRows = 256;

  template <class T>
  static void transpose(const T* grad, int64_t stride, int64_t rows, int64_t columns, float* to, int64_t to_stride,
                        float*) {
    ::transpose(grad, stride, rows, columns, to, to_stride);
  }
  template <class T>
  static void pack(const T* x, int64_t stride, int64_t rows, int64_t columns, float* panels, float*) {
    pack_rows(x, stride, rows, columns, panels);
  }
  template <class T>
  static void add_up(const T*, int64_t, const float* transposed, int64_t transposed_stride, int64_t rows,
                     int64_t columns, bool accumulate, float* bias) {
    for (int64_t o = 0; o < columns; ++o) {
      Vec sum = broadcast(0.0f);
      for (int64_t r = 0; r < rows; r += kLanes) sum = sum + load(transposed + o * transposed_stride + r);
      bias[o] = (accumulate ? bias[o] : 0.0f) + sum_of_lanes(sum);
    }
  }
};

// What becomes of some rows of grad and x.
template <class Gradients>
struct GradientFactors {
  using Format = typename Gradients::Micro::Format;
  // One step more than the rows: a power of two would put all channels of a block into the same few cache lines.
  int64_t stride;
  typename Format::Operand* grads;  // [out, planes, stride]
  typename Format::Weight* panels;
  float *grad_scale, *x_scale;

  // Returns the bytes.
  int64_t cut(char* scratch, int64_t rows, int64_t out, int64_t in) {
    ScratchCut all{scratch};
    stride = round_up(least(Gradients::kRows, rows), Gradients::kRowStep) + Gradients::kRowStep;
    grads = all.take<typename Format::Operand>(out * Format::kPlanes * stride);
    panels = all.take<typename Format::Weight>(padded_columns(in) * Format::kPlanes * Gradients::kRows);
    grad_scale = all.take<float>(Format::kScaled ? out : 0);
    x_scale = all.take<float>(Format::kScaled ? padded_columns(in) : 0);
    return all.bytes;
  }
};

template <class Gradients>
inline int64_t weight_gradient_scratch(int64_t out, int64_t in) {
  return GradientFactors<Gradients>{}.cut(nullptr, Gradients::kRows, out, in);
}

// The lines of some rows, spread over the tiles of a product.
template <class T>
inline Lines rows_ahead(const T* from, int64_t row_stride, int64_t first, int64_t rows, int64_t columns,
                        int64_t tiles) {
  constexpr int64_t kBytes = sizeof(T);
  Lines lines = lines_of(from + first * row_stride, rows, columns * kBytes, row_stride * kBytes);
  lines.most = divide_up(lines.count, tiles);
  return lines;
}

template <class Gradients, class G, class X>
inline void weight_gradient_of(const WeightGradient& g, const G* all_grad, const X* all_x, char* scratch) {
  using Micro = typename Gradients::Micro;
  GradientFactors<Gradients> factors;
  factors.cut(scratch, g.rows, g.out, g.in);
  const int64_t tiles = divide_up(g.out, Micro::kRows) * divide_up(g.in, Micro::kPanelColumns);
  bool accumulate = g.accumulate;
  int64_t first = 0;
  do {
    const int64_t count = least(Gradients::kRows, g.rows - first);
    const G* grad = all_grad + first * g.grad_row_stride;
    Gradients::transpose(grad, g.grad_row_stride, count, g.out, factors.grads, factors.stride, factors.grad_scale);
    Gradients::pack(all_x + first * g.x_row_stride, g.x_row_stride, count, g.in, factors.panels, factors.x_scale);
    const Segment segment{0, count, 0, g.in, accumulate, factors.panels, nullptr, factors.x_scale, nullptr};
    const int64_t following = least(Gradients::kRows, g.rows - first - count);
    Micro micro(g.out);
    run_segment(micro, {factors.grads, factors.stride, factors.grad_scale, 1, count}, segment, Activation::none,
                {g.y, g.y_row_stride}, {0, g.out}, false, false,
                {rows_ahead(all_grad, g.grad_row_stride, first + count, following, g.out, tiles),
                 rows_ahead(all_x, g.x_row_stride, first + count, following, g.in, tiles)});
    micro.finish();
    if (g.bias) {
      Gradients::add_up(grad, g.grad_row_stride, factors.grads, factors.stride, count, g.out, accumulate, g.bias);
    }
    accumulate = true;
    first += count;
  } while (first < g.rows);
}

// `with_element`; by parts there are gradients of float32 alone.
template <class Gradients, class Run>
inline void with_element_of(Element element, Run run) {
  if constexpr (Gradients::Micro::Format::kScaled) {
    run(float{});
  } else {
    with_element(element, run);
  }
}

template <class Gradients>
inline void weight_gradient(const WeightGradient& g, char* scratch) {
  with_element_of<Gradients>(g.grad_element, [&](auto of_grad) {
    with_element_of<Gradients>(g.x_element, [&](auto of_x) {
      weight_gradient_of<Gradients>(g, static_cast<const decltype(of_grad)*>(g.grad),
                                    static_cast<const decltype(of_x)*>(g.x), scratch);
    });
  });
}

}  // namespace
