#include "feed_forward_chunks.h"

#include <algorithm>

namespace squeezebert {

std::vector<FeedForwardChunk> add_feed_forward(PackedSegments& segments, const ConvWeights& in, const ConvWeights& out,
                                               int64_t group, const std::vector<int64_t>& bounds) {
  const int64_t first_hidden = group * out.in_per_group();
  std::vector<FeedForwardChunk> chunks;
  for (std::size_t c = 0; c + 1 < bounds.size(); ++c) {
    const int64_t begin = bounds[c], count = bounds[c + 1] - begin;
    FeedForwardChunk chunk{{}, {}, first_hidden + begin, count};
    const int64_t first_in = segments.size();
    cut(chunk.hidden_begin, chunk.hidden_begin + count, in.out_per_group(), [&](int64_t row, int64_t stop) {
      segments.add({{in, row, stop - row, 0}}, row / in.out_per_group() * in.in_per_group(), row);
    });
    chunk.in = segments.since(first_in);
    const int64_t first_out = segments.size();
    cut(0, out.out_per_group(), kSegmentColumns, [&](int64_t row, int64_t stop) {
      const int64_t channel = group * out.out_per_group() + row;
      segments.add({{out, channel, stop - row, 0}}, first_hidden, channel, begin, count, c == 0);
    });
    chunk.out = segments.since(first_out);
    chunks.push_back(chunk);
  }
  return chunks;
}

std::vector<FeedForward::Chunk> chunks_on(const Segment* segments, const std::vector<FeedForwardChunk>& chunks) {
  std::vector<FeedForward::Chunk> found;
  for (const FeedForwardChunk& chunk : chunks) {
    found.push_back({segments + chunk.in.first, chunk.in.count, segments + chunk.out.first, chunk.out.count,
                     chunk.hidden_begin, chunk.hidden});
  }
  return found;
}

std::vector<int64_t> bounds_of_full_chunks(int64_t hidden, int64_t size) {
  std::vector<int64_t> bounds{0};
  while (bounds.back() < hidden) bounds.push_back(std::min(bounds.back() + size, hidden));
  return bounds;
}

std::vector<int64_t> bounds_of_equal_chunks(int64_t hidden) {
  const int64_t count = divide_up(hidden, kHiddenColumns);
  std::vector<int64_t> bounds{0};
  for (int64_t c = 1; c <= count; ++c) bounds.push_back(hidden * c / count);
  return bounds;
}

}  // namespace squeezebert
