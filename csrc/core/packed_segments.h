// Weights cut into the segments that kernels take, packed into one stretch of memory.
#pragma once
#include <array>
#include <cstdint>
#include <vector>

#include "../kernels/kernel_table.h"
#include "sizes.h"
#include "workspace.h"

namespace squeezebert {

// A grouped pointwise convolution as PyTorch holds it, in float32 or already quantized.
struct ConvWeights {
  const float* weight;      // [out_channels, in_channels / groups], contiguous; or null, with:
  const int8_t* quantized;  // the same shape, value = int * scale
  const float* scale;       // [out_channels, scales_per_group]
  const float* bias;        // [out_channels] or null
  int64_t groups, in_channels, out_channels;
  // In int8, a group's inputs are cut into as many equal stretches with scales of their own, of weights and of
  // operands.
  int64_t scales_per_group = 1;
  // `weight` is that of the product whose gradient this is: [in_channels, out_channels / groups]. Not int8.
  bool transposed = false;

  int64_t in_per_group() const { return in_channels / groups; }
  int64_t out_per_group() const { return out_channels / groups; }
};

// The int8 form of a row of weights: scale = largest magnitude / 127, ints rounded to nearest. NaN or infinite weights
// make the scale NaN.
float quantize_row(const float* row, int64_t count, int8_t* ints);

// Consecutive segments that compute the same columns, or columns side by side. A task runs a piece as one product.
struct Piece {
  int64_t first, count;
};

class PackedSegments {
 public:
  PackedSegments(const KernelTable& kernels, Precision precision) : kernels_(&kernels), precision_(precision) {}

  // Some of a convolution's rows, to stand at `column` of a segment.
  struct Strip {
    ConvWeights conv;
    int64_t row, rows, column;
  };

  // Adds the segments that compute `strips`, which lie in one group each and read the same inputs, into columns from
  // out_begin, cut along K so that each suits the caches.
  Piece add(const std::vector<Strip>& strips, int64_t in_begin, int64_t out_begin);

  // Adds one segment for a part of the inputs: from k_begin of the group's, k_count of them. The first of its columns
  // starts from the bias, the others add to what those before it wrote.
  Piece add(const std::vector<Strip>& strips, int64_t in_begin, int64_t out_begin, int64_t k_begin, int64_t k_count,
            bool first);

  // Adds a whole convolution: for every group, as many pieces as its columns need.
  std::vector<Piece> add(const ConvWeights& conv);

  // Packs everything added. The sources must be there until then, and are not needed after.
  void pack(int threads);

  // All that was added since there were `first` segments.
  Piece since(int64_t first) const { return {first, size() - first}; }

  const Segment& operator[](int64_t i) const { return segments_[static_cast<std::size_t>(i)]; }
  const Segment* data() const { return segments_.data(); }
  int64_t size() const { return static_cast<int64_t>(segments_.size()); }
  int64_t bytes() const { return memory_.bytes(); }
  const KernelTable& kernels() const { return *kernels_; }
  Precision precision() const { return precision_; }
  const PrecisionKernels& precision_kernels() const { return kernels_->precision[static_cast<int>(precision_)]; }

 private:
  struct Source {
    std::vector<Strip> strips;
    int64_t k_begin;
    bool bias;
    int64_t offset;  // in memory: weight, then bias, scale and start
  };
  void pack_one(int64_t index);
  int64_t array_bytes(int64_t columns) const;

  const KernelTable* kernels_;
  Precision precision_;
  std::vector<Segment> segments_;
  std::vector<Source> sources_;
  RecycledMemory memory_;
};

}  // namespace squeezebert
