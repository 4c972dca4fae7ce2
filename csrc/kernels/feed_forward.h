// Pass C for one group and a stretch of rows: act(x * in^T + bias) * out^T + bias. The hidden row, four times as wide
// as the layer's own, is never in main memory. Included by the instruction-set builds alone.
//
//     x rows             hidden chunk              y rows
//    +-------+   in     +------------+   out      +-------+
//    |       | -------> | activation | ---------> |  +=   |     chunk by chunk of the hidden channels
//    +-------+          +------------+            +-------+
//
// A chunk is as wide as lets its two weight blocks stay in the second-level cache for all rows; in int8 it is what has
// one scale.
#pragma once
#include "product.h"

namespace {

using squeezebert::FeedForward;

inline int64_t widest_chunk(const FeedForward& block) {
  int64_t widest = 0;
  for (int64_t c = 0; c < block.chunk_count; ++c)
    widest = block.chunks[c].hidden > widest ? block.chunks[c].hidden : widest;
  return padded_columns(widest);
}

constexpr int64_t kFeedForwardRows = 128;  // whose hidden chunks are in scratch at once

// Room past the last operand: a last step may read a few values that meet zero weights.
constexpr int64_t kOperandSlack = 64;

template <class Micro>
inline int64_t feed_forward_scratch(const FeedForward& block) {
  using Format = typename Micro::Format;
  const int64_t width = widest_chunk(block), rows = kFeedForwardRows;
  int64_t bytes = rows * width * 4;
  if (!Format::kInPlace) {
    bytes += round_up(rows * width * operand_bytes<Format>() + kOperandSlack, 64) + round_up(rows * 4, 64);
  }
  return bytes;
}

template <class Micro>
inline void feed_forward(const FeedForward& block, Rows rows, char* scratch) {
  using Format = typename Micro::Format;
  using Operand = typename Format::Operand;
  const int64_t width = widest_chunk(block), most = kFeedForwardRows;
  float* hidden = reinterpret_cast<float*>(scratch);
  char* rest = scratch + most * width * 4;
  for (int64_t first = rows.begin; first < rows.end; first += most) {
    const Rows stretch{first, least(first + most, rows.end)};
    const Rows local{0, stretch.end - stretch.begin};
    Micro micro(local.end);
    for (int64_t c = 0; c < block.chunk_count; ++c) {
      const FeedForward::Chunk& chunk = block.chunks[c];
      // Hidden row 0 stands for row `first`, hidden column 0 for the chunk's first channel. The first chunk brings the
      // rows of x and y near for the others.
      const int64_t origin = first * width + chunk.hidden_begin;
      const Product in{block.x, chunk.in, chunk.in_count, hidden - origin, width, block.activation, chunk.out, c == 0};
      Operands operands{hidden, width, nullptr, 1, chunk.hidden};
      if constexpr (Micro::kRounds && !Format::kScaled) {
        operands.data = rest;
        run_product(micro, in, stretch, static_cast<uint16_t*>(operands.data) - origin, width);
      } else {
        run_product(micro, in, stretch);
        if constexpr (!Format::kInPlace) {
          operands.data = rest;
          operands.scale =
              reinterpret_cast<float*>(rest + round_up(most * width * operand_bytes<Format>() + kOperandSlack, 64));
          Format::prepare(hidden, width, local, operands);
          operands.scale -= chunk.hidden_begin / chunk.hidden;  // segments count groups from the hidden row's first
        }
      }
      operands.data = static_cast<Operand*>(operands.data) - chunk.hidden_begin;
      const bool last = c + 1 == block.chunk_count;
      const Segment* next = !last ? block.chunks[c + 1].in : stretch.end < rows.end ? block.chunks[0].in : block.next;
      const Product out{operands,
                        chunk.out,
                        chunk.out_count,
                        block.y + first * block.y_row_stride,
                        block.y_row_stride,
                        Activation::none,
                        next,
                        false,
                        c == 0};
      run_product(micro, out, local);
    }
  }
}

}  // namespace
