#include "plain_encoder.h"

#include <numeric>

namespace squeezebert::test {

PlainEncoder::PlainEncoder(const EncoderShape& shape) : shape_(shape) {
  uint32_t seed = 1;
  for (int l = 0; l < shape.layers; ++l) {
    Layer layer;
    for (int c = 0; c < 6; ++c) {
      const int64_t in = c == 5 ? shape.hidden : shape.channels, out = c == 4 ? shape.hidden : shape.channels;
      const int64_t depth = in / shape.groups[c];
      layer.weight[c] = random_floats(out * depth, seed++);
      // Outputs about as large as inputs; q and k larger, so that a softmax has something to choose.
      const float size = (c < 2 ? 4.0f : 2.0f) / std::sqrt(static_cast<float>(depth));
      for (float& w : layer.weight[c]) w *= size;
      layer.bias[c] = random_floats(out, seed++);
    }
    for (int n = 0; n < 2; ++n) {
      layer.norm_weight[n] = random_floats(shape.channels, seed++);
      for (float& w : layer.norm_weight[n]) w = 1 + w / 2;
      layer.norm_bias[n] = random_floats(shape.channels, seed++);
    }
    layers_.push_back(std::move(layer));
  }
}

LayerWeights PlainEncoder::weights(const Layer& layer) const {
  const int64_t* groups = shape_.groups;
  const int64_t shared = std::lcm(std::lcm(groups[0], groups[1]), groups[2]);
  const auto conv = [&](int c) {
    return ConvWeights{layer.weight[c].data(),
                       nullptr,
                       nullptr,
                       layer.bias[c].data(),
                       groups[c],
                       c == 5 ? shape_.hidden : shape_.channels,
                       c == 4 ? shape_.hidden : shape_.channels,
                       c < 3 ? shared / groups[c] : shape_.blocks[c - 3]};
  };
  const auto norm = [&](int n) {
    return NormWeights{layer.norm_weight[n].data(), layer.norm_bias[n].data(), n == 0 ? 1e-12f : 1e-5f};
  };
  return {shape_.heads, shape_.activation, conv(0), conv(1), conv(2), conv(3), conv(4), conv(5), norm(0), norm(1)};
}

Encoder PlainEncoder::packed(const KernelTable& kernels, Precision precision, int threads) const {
  Encoder encoder(kernels, precision);
  for (const Layer& layer : layers_) encoder.add_layer(weights(layer));
  encoder.pack(threads);
  return encoder;
}

template <typename Real>
std::vector<std::vector<Real>> PlainEncoder::states(const std::vector<float>& input, int64_t batch, int64_t tokens,
                                                    const EncoderMask& mask, Precision precision,
                                                    Precision scores) const {
  const int64_t channels = shape_.channels, size = channels / shape_.heads;
  std::vector<Real> x(input.begin(), input.end());
  std::vector<std::vector<Real>> states;
  for (const Layer& layer : layers_) {
    const LayerWeights w = weights(layer);
    const std::vector<Real> q = plain_product(x, w.query, precision);
    const std::vector<Real> k = plain_product(x, w.key, precision);
    const std::vector<Real> v = plain_product(x, w.value, precision);
    std::vector<Real> context(x.size());
    for (int64_t s = 0; s < batch; ++s) {
      for (int64_t head = 0; head < shape_.heads; ++head) {
        const int64_t at = s * tokens * channels + head * size;
        plain_attention(q.data() + at, k.data() + at, v.data() + at, channels, tokens, size, mask.row(s, head),
                        mask.query_stride, context.data() + at, channels, scores);
      }
    }
    const auto add_norm = [&](std::vector<Real>& y, const std::vector<Real>& residual, const NormWeights& norm) {
      for (int64_t r = 0; r < batch * tokens; ++r) {
        plain_add_layer_norm(y.data() + r * channels, residual.data() + r * channels, channels, norm.weight, norm.bias,
                             norm.eps);
      }
    };
    std::vector<Real> y = plain_product(context, w.post_attention, precision);
    add_norm(y, x, w.post_attention_norm);
    std::vector<Real> hidden = plain_product(y, w.intermediate, precision);
    activate(w.activation, hidden);
    x = plain_product(hidden, w.output, precision);
    add_norm(x, y, w.output_norm);
    states.push_back(x);
  }
  return states;
}

template std::vector<std::vector<float>> PlainEncoder::states(const std::vector<float>&, int64_t, int64_t,
                                                              const EncoderMask&, Precision, Precision) const;
template std::vector<std::vector<double>> PlainEncoder::states(const std::vector<float>&, int64_t, int64_t,
                                                               const EncoderMask&, Precision, Precision) const;

}  // namespace squeezebert::test
