// A whole encoder: every layer's packed weights, and the forward as one call.
#pragma once
#include <cstdint>
#include <memory>
#include <vector>

#include "../feed_forward_chunks.h"
#include "../packed_segments.h"

namespace squeezebert {

struct NormWeights {
  const float* weight;  // [channels]
  const float* bias;
  float eps;
};

// One layer as PyTorch holds it. Group counts may differ; a head may lie across groups. In int8, query, key and value
// read the same operands, and so have as many scales in all: groups times scales_per_group.
struct LayerWeights {
  int64_t heads;
  Activation activation;
  ConvWeights query, key, value, post_attention, intermediate, output;
  NormWeights post_attention_norm, output_norm;
};

// What one forward works on: [batch, tokens, channels].
struct EncoderInput {
  const float* x;
  int64_t batch, tokens;
  int64_t sequence_stride, row_stride;  // of x, in elements

  // Added to the scores, or null: element [sequence, head, query, key] at the strides, which may be 0, keys contiguous.
  const float* mask;
  int64_t mask_sequence_stride, mask_head_stride, mask_query_stride;

  // Leave out tokens that the mask, the same for all heads and queries, leaves out: their output is zero.
  bool unpad;

  float* y;              // contiguous
  float* const* states;  // null, or one contiguous [batch, tokens, channels] for every layer's output
};

class Encoder {
 public:
  // By parts a weight has 6 bytes where float32 has 4, and of a short sequence reading weights is the time. So with a
  // precision by parts, sequences of fewer tokens run in float32 on vectors. What decides is the tokens that the mask
  // keeps, which are the same alone, in a batch and with padding.
  static constexpr int64_t kLongSequence = 64;

  Encoder(const KernelTable& kernels, Precision precision);

  void add_layer(const LayerWeights& weights);  // all layers have the same channels
  void pack(int threads);                       // after the last layer, whose sources are not needed from then on

  struct Times {
    double attention = 0, post_attention = 0, feed_forward = 0;  // seconds, of all layers
  };
  // Needs no lock: any number of calls may run at once. x and y must not overlap. `times`, if given, says where the
  // time went.
  void run(const EncoderInput& input, int threads, Times* times = nullptr) const;

  const KernelTable& kernels() const { return segments_.kernels(); }
  Precision precision() const { return segments_.precision(); }
  int64_t bytes() const { return segments_.bytes() + (for_short_ ? for_short_->bytes() : 0); }

 private:
  struct Norm {
    std::vector<float> weight, bias;
    float eps;
  };
  struct Layer {
    int64_t channels, heads, head_size, hidden;
    Activation activation;
    int64_t output_groups;
    // scales of one row of operands
    int64_t attention_scales, post_attention_scales, feed_forward_scales;
    std::vector<Piece> head_pieces;                            // each a head's q, k and v
    std::vector<Piece> post_attention;                         // in order: consecutive ones are one product too
    std::vector<std::vector<FeedForwardChunk>> hidden_chunks;  // by output group
    Norm post_attention_norm, output_norm;
    // Made by pack, of hidden_chunks.
    std::vector<std::vector<FeedForward::Chunk>> feed_forward;
    std::vector<std::vector<Segment>> output_pieces;  // segments that write the same columns, chunk after chunk
  };
  struct Run;

  void add_attention(const LayerWeights& weights, Layer& layer);
  void add_hidden_chunks(const LayerWeights& weights, Layer& layer);

  PackedSegments segments_;
  std::vector<Layer> layers_;
  std::unique_ptr<Encoder> for_short_;  // the same layers on vectors, or null
};

}  // namespace squeezebert
