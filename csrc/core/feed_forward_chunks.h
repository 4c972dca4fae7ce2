// The segments of a feed-forward block, act(x * in^T + bias) * out^T + bias. Its hidden channels are cut into chunks:
// what a chunk's two products need stays in the second-level cache, and the hidden row never reaches main memory.
#pragma once
#include <cstdint>
#include <vector>

#include "packed_segments.h"

namespace squeezebert {

// Consecutive hidden channels of one group of `out`.
struct FeedForwardChunk {
  Piece in, out;  // that write them, and that read them
  int64_t hidden_begin, hidden;
};

// Adds the segments of one group of `out`, whose channels of the hidden row are cut at `bounds`, from 0 to all of them.
// A chunk's channels may be of several groups of `in`.
std::vector<FeedForwardChunk> add_feed_forward(PackedSegments& segments, const ConvWeights& in, const ConvWeights& out,
                                               int64_t group, const std::vector<int64_t>& bounds);

// The same as kernels take them, once everything is added.
std::vector<FeedForward::Chunk> chunks_on(const Segment* segments, const std::vector<FeedForwardChunk>& chunks);

// Two ways to cut `hidden` channels into as few chunks as have `size`, or kHiddenColumns, or fewer. The bits of a
// result depend on which: every chunk is summed on its own. All but the last are full; or all are about equal.
std::vector<int64_t> bounds_of_full_chunks(int64_t hidden, int64_t size);
std::vector<int64_t> bounds_of_equal_chunks(int64_t hidden);

}  // namespace squeezebert
