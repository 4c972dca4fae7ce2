// A layer's weights, cut into segments and packed.
#include "encoder.h"

namespace squeezebert {

Encoder::Encoder(const KernelTable& kernels, Precision precision) : segments_(kernels, precision) {
  if (segments_.precision_kernels().products > 0) for_short_ = std::make_unique<Encoder>(kernels, Precision::float32);
}

// A head's q, k and v stand side by side. Where they read the same inputs, which is where group counts are equal and a
// head lies within a group, they are one product.
void Encoder::add_attention(const LayerWeights& w, Layer& layer) {
  const int64_t size = layer.head_size, lanes = kernels().lanes, padded = divide_up(size, lanes) * lanes;
  const ConvWeights* projections[] = {&w.query, &w.key, &w.value};
  const bool together = w.query.groups == w.key.groups && w.key.groups == w.value.groups;
  for (int64_t head = 0; head < layer.heads; ++head) {
    const int64_t begin = head * size, end = begin + size, first = segments_.size();
    const int64_t group_size = w.query.out_per_group();
    if (together && begin / group_size == (end - 1) / group_size) {
      std::vector<PackedSegments::Strip> strips;
      for (int64_t p = 0; p < 3; ++p) strips.push_back({*projections[p], begin, size, p * padded});
      segments_.add(strips, begin / group_size * w.query.in_per_group(), 0);
    } else {
      for (int64_t p = 0; p < 3; ++p) {
        const ConvWeights& conv = *projections[p];
        cut(begin, end, conv.out_per_group(), [&](int64_t row, int64_t stop) {
          segments_.add({{conv, row, stop - row, 0}}, row / conv.out_per_group() * conv.in_per_group(),
                        p * padded + row - begin);
        });
      }
    }
    layer.head_pieces.push_back(segments_.since(first));
  }
}

// The groups of the output product part the hidden channels, whatever the groups of the first product: each output
// group is computed from its own hidden channels, chunk by chunk.
void Encoder::add_hidden_chunks(const LayerWeights& w, Layer& layer) {
  const int64_t hidden = w.output.in_per_group();
  const bool scaled = precision() == Precision::int8;
  const std::vector<int64_t> bounds = bounds_of_full_chunks(
      hidden, scaled ? hidden / w.output.scales_per_group : segments_.precision_kernels().hidden_chunk);
  for (int64_t group = 0; group < w.output.groups; ++group) {
    layer.hidden_chunks.push_back(add_feed_forward(segments_, w.intermediate, w.output, group, bounds));
  }
}

void Encoder::add_layer(const LayerWeights& w) {
  if (for_short_) for_short_->add_layer(w);
  Layer layer;
  layer.channels = w.query.in_channels;
  layer.heads = w.heads;
  layer.head_size = layer.channels / w.heads;
  layer.hidden = w.intermediate.out_channels;
  layer.activation = w.activation;
  layer.attention_scales = w.query.groups * w.query.scales_per_group;
  layer.post_attention_scales = w.post_attention.groups * w.post_attention.scales_per_group;
  layer.feed_forward_scales = w.intermediate.groups * w.intermediate.scales_per_group;
  layer.output_groups = w.output.groups;
  add_attention(w, layer);
  layer.post_attention = segments_.add(w.post_attention);
  add_hidden_chunks(w, layer);
  const auto copy = [&](const NormWeights& norm) {
    return Norm{{norm.weight, norm.weight + layer.channels}, {norm.bias, norm.bias + layer.channels}, norm.eps};
  };
  layer.post_attention_norm = copy(w.post_attention_norm);
  layer.output_norm = copy(w.output_norm);
  layers_.push_back(std::move(layer));
}

void Encoder::pack(int threads) {
  if (for_short_) for_short_->pack(threads);
  segments_.pack(threads);
  for (Layer& layer : layers_) {
    for (const std::vector<FeedForwardChunk>& chunks : layer.hidden_chunks) {
      layer.feed_forward.push_back(chunks_on(segments_.data(), chunks));
      for (int64_t i = 0; i < chunks.front().out.count; ++i) {
        std::vector<Segment> piece;
        for (const FeedForwardChunk& chunk : chunks) piece.push_back(segments_[chunk.out.first + i]);
        layer.output_pieces.push_back(std::move(piece));
      }
    }
  }
}

}  // namespace squeezebert
