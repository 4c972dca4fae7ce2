// An encoder with random weights, and what plain loops make of it.
#pragma once
#include "../core/encoder/encoder.h"
#include "support.h"

namespace squeezebert::test {

struct EncoderShape {
  int64_t channels, heads, hidden;
  int64_t groups[6];  // of query, key, value, post_attention, intermediate, output
  Activation activation = Activation::gelu;
  int layers = 1;
  // Of int8 scales in a group's inputs of post_attention, intermediate and output. Those of query, key and value follow
  // from their groups: they share operands, and so their scales.
  int64_t blocks[3] = {1, 1, 1};
};

// A mask as EncoderInput takes it; `values` may be empty: none.
struct EncoderMask {
  std::vector<float> values;
  int64_t sequence_stride = 0, head_stride = 0, query_stride = 0;

  const float* row(int64_t sequence, int64_t head) const {
    return values.empty() ? nullptr : values.data() + sequence * sequence_stride + head * head_stride;
  }
};

class PlainEncoder {
 public:
  explicit PlainEncoder(const EncoderShape& shape);

  // Every layer's output for x, [batch, tokens, channels], operands and weights of products rounded as `precision`
  // says, those of scores and values as `scores` says, all else in the precision of `Real`.
  template <typename Real>
  std::vector<std::vector<Real>> states(const std::vector<float>& x, int64_t batch, int64_t tokens,
                                        const EncoderMask& mask, Precision precision,
                                        Precision scores = Precision::float32) const;

  Encoder packed(const KernelTable& kernels, Precision precision, int threads = 1) const;

  const EncoderShape& shape() const { return shape_; }

 private:
  struct Layer {
    std::vector<float> weight[6], bias[6], norm_weight[2], norm_bias[2];
  };
  LayerWeights weights(const Layer& layer) const;

  EncoderShape shape_;
  std::vector<Layer> layers_;
};

}  // namespace squeezebert::test
