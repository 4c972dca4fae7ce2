// The operation as callers see it: packed weights, and a product split over threads.
#pragma once
#include <cstdint>
#include <vector>

#include "packed_segments.h"

namespace squeezebert {

// Packed for one instruction-set build and precision.
class PackedGroupedPointwiseConv {
 public:
  // The bias of `weights` is left out: `run` takes it.
  PackedGroupedPointwiseConv(const KernelTable& kernels, Precision precision, const ConvWeights& weights, int threads);

  // y[t, :] = activation(x[t, :] * weight^T + bias) for `tokens` rows. x and y are of `element`, and must not overlap.
  // bias: [out_channels] or null.
  void run(const void* x, int64_t x_row_stride, int64_t tokens, const float* bias, void* y, int64_t y_row_stride,
           Activation activation, int threads, Element element = Element::float32) const;

  struct Term {
    const PackedGroupedPointwiseConv* conv;
    const void* x;
    const float* bias;  // or null
    void* y;
  };
  // Several convolutions of one build, precision and shape, where nothing stands between rows: `qkv_projection`. Side
  // by side, its forward: on the x of the first, whose rows all of them read while they are near. As a sum, x's
  // gradient: into the y of the first.
  static void run_side_by_side(const std::vector<Term>& terms, int64_t tokens, int threads,
                               Element element = Element::float32);
  static void run_sum(const std::vector<Term>& terms, int64_t tokens, int threads, Element element = Element::float32);

  const KernelTable& kernels() const { return segments_.kernels(); }
  Precision precision() const { return segments_.precision(); }
  int64_t groups() const { return groups_; }
  int64_t in_channels() const { return in_channels_; }
  int64_t out_channels() const { return out_channels_; }
  int64_t bytes() const { return segments_.bytes(); }

 private:
  struct Run;
  static void run_terms(const std::vector<Term>& terms, bool sum, int64_t x_row_stride, int64_t tokens,
                        int64_t y_row_stride, Activation activation, int threads, Element element);
  void check_same_form(const PackedGroupedPointwiseConv& other) const;

  PackedSegments segments_;
  int64_t groups_, scales_, in_channels_, out_channels_;
  std::vector<Piece> pieces_;
};

}  // namespace squeezebert
