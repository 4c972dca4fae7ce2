// A dense layer around the encoder, on the encoder's kernels, as squeezebert_fast/patching/linear.py runs it.
#pragma once
#include <cstdint>
#include <string>

#include "../core/add_layer_norm.h"
#include "../core/grouped_pointwise_conv.h"
#include "weights.h"

namespace squeezebert {

// What all parts of a model run on.
struct Engine {
  const KernelTable& kernels;
  Precision precision;
};

class Dense {
 public:
  // A layer with fewer outputs stays float32: it is a classifier, whose cost is nothing and whose rounding is seen.
  static constexpr int64_t kFewChannels = 64;

  // bias: [out] or null; it must stay.
  Dense(const Engine& engine, const Matrix& weight, const float* bias, int64_t in, int64_t out, int threads);
  // NAME.weight and NAME.bias.
  Dense(const Engine& engine, Weights& weights, const std::string& name, int64_t in, int64_t out, int threads);

  // y = x * weight^T + bias, by rows without gaps.
  void run(const float* x, int64_t rows, float* y, int threads) const;

  static bool stays_float(int64_t out) { return out < kFewChannels; }

 private:
  PackedGroupedPointwiseConv packed_;
  const float* bias_;
};

// NAME.weight and NAME.bias.
LayerNorm norm_of(Weights& weights, const std::string& name, int64_t channels, float eps);

}  // namespace squeezebert
