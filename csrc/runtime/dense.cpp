#include "dense.h"

namespace squeezebert {
namespace {

ConvWeights conv_of(const Matrix& weight, int64_t in, int64_t out) {
  return {weight.floats, weight.ints, weight.scale, nullptr, 1, in, out, 1};
}

}  // namespace

Dense::Dense(const Engine& engine, const Matrix& weight, const float* bias, int64_t in, int64_t out, int threads)
    : packed_(engine.kernels, stays_float(out) ? Precision::float32 : engine.precision, conv_of(weight, in, out),
              threads),
      bias_(bias) {}

Dense::Dense(const Engine& engine, Weights& weights, const std::string& name, int64_t in, int64_t out, int threads)
    : Dense(engine, weights.matrix(name + ".weight", out, in, 1, stays_float(out)),
            weights.floats(name + ".bias", {out}), in, out, threads) {}

void Dense::run(const float* x, int64_t rows, float* y, int threads) const {
  packed_.run(x, packed_.in_channels(), rows, bias_, y, packed_.out_channels(), Activation::none, threads);
}

LayerNorm norm_of(Weights& weights, const std::string& name, int64_t channels, float eps) {
  return {weights.floats(name + ".weight", {channels}), weights.floats(name + ".bias", {channels}), eps, channels};
}

}  // namespace squeezebert
