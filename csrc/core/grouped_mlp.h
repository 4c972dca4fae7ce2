// A feed-forward block, act(x * in^T + bias) * out^T + bias, whose groups line up, and its gradient.
#pragma once
#include <cstdint>
#include <vector>

#include "feed_forward_chunks.h"
#include "packed_segments.h"

namespace squeezebert {

// Fewer than kTasksPerThread: a task fetches its chunks' weights anew, and in the backward a group's every further task
// has a gradient of x to itself.
constexpr int64_t kMlpTasksPerThread = 2;

// Both weights, packed for one instruction-set build, in float32 of any form or bfloat16.
class PackedGroupedMlp {
 public:
  // The biases of `in` and `out` are left out: `run` takes them.
  PackedGroupedMlp(const KernelTable& kernels, Precision precision, const ConvWeights& in, const ConvWeights& out,
                   int threads);

  // x: [rows, channels], y: [rows, out_channels], contiguous, of `element`; biases may be null. The hidden tensor is in
  // the caches only.
  void run(const void* x, int64_t rows, const float* bias_in, const float* bias_out, void* y, Activation activation,
           int threads, Element element = Element::float32) const;

  int64_t out_channels() const { return out_channels_; }
  int64_t bytes() const { return segments_.bytes(); }

 private:
  PackedSegments segments_;
  int64_t groups_, in_channels_, hidden_channels_, out_channels_;
  std::vector<FeedForwardChunk> chunks_;  // group by group
};

struct GroupedMlpBackward {
  ConvWeights in, out;  // of equal groups; float32
  Activation activation;
  int64_t rows;
  const void *x, *grad;  // [rows, channels], contiguous
  // Each may be null; a bias's gradient is computed with its weight's alone.
  void* grad_x;
  float *grad_weight_in, *grad_bias_in, *grad_weight_out, *grad_bias_out;
  Element element = Element::float32;  // of x, grad and grad_x
};
void grouped_mlp_backward(const KernelTable& kernels, Precision precision, const GroupedMlpBackward& block,
                          int threads);

}  // namespace squeezebert
