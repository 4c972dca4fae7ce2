// y = act(x * weight^T + bias) over a list of dense segments, in any precision, on any micro-kernel.
// Included by the instruction-set builds alone.
//
//            K                   N                          N
//      +-----------+       +---+---+---+             +---+---+---+
//  M   |  rows     |   K   | p | a | n |  packed     | b | l | o |   block: Micro::kRows rows x one panel of sums
//      +-----------+       | e | l | s |  panels     +---+---+---+
//      |           |       +---+---+---+             |           |
//
// Loops, from the outside: segments, whose weights stay in the second-level cache; blocks of rows, whose K operands
// stay in the first-level cache; panels of N, whose weights stream past in the order they are stored; K. Sums over K
// run in one order that depends on the segments alone, so a row's result has the same bits in any block, batch and
// thread.
//
// The model's weights are far larger than the caches, and the hardware fetches ahead within one segment and block
// alone: as long as a segment meets a second block of rows, memory would lie idle. So blocks fetch the next segment's
// weights, some cache lines at each step of K.
#pragma once
#include "micro/block.h"
#include "packing.h"

namespace {

using squeezebert::Product;
using squeezebert::Segment;

// Panels that fit into the first-level cache beside the rows they meet stay there for all blocks of rows; of larger
// ones, a block's operands stay, and the weights stream past.
constexpr int64_t kCachedPanel = 16 * 1024;  // bytes

// Where a product's last sums go: y, or rounded to bfloat16, which may be another product's operands. Channels are
// counted alike in both.
struct Target {
  float* y;
  int64_t y_row_stride;
  uint16_t* rounded = nullptr;
  int64_t rounded_row_stride = 0;
};

// far_x, far_y: as in Product. ahead: two lists of lines that are needed after this segment.
template <class Micro, class Format = typename Micro::Format>
inline void run_segment(Micro& micro, const Operands& x, const Segment& segment, Activation activation,
                        const Target& target, Rows rows, bool far_x, bool far_y, const Lines (&ahead)[2]) {
  using Operand = typename Format::Operand;
  using Weight = typename Format::Weight;
  const auto* operands = static_cast<const Operand*>(x.data) + segment.in_begin;
  const auto* weight = static_cast<const Weight*>(segment.weight);
  const int64_t packed = packed_depth<Micro>(segment.depth);
  const auto blocks = Micro::rows_of(rows);
  constexpr int64_t kOperandBytes = static_cast<int64_t>(sizeof(Operand)), kFloatBytes = 4;
  Lines fetched[kFetched] = {{}, {}, ahead[0], ahead[1]};
  int64_t group = 0;  // of the scales
  if constexpr (Format::kScaled) {
    if (x.channels > 0) group = segment.in_begin / (x.channels / x.groups);
  }
  const auto run_block = [&](Rows some, int64_t n) {
    Block<Format> block;
    block.x = operands + some.begin * x.row_stride * Format::kPlanes;
    block.x_row_stride = x.row_stride * Format::kPlanes;
    block.x_plane_stride = x.row_stride;
    block.rows = some.end - some.begin;
    block.rows_before = some.begin - rows.begin;
    block.panel = weight + n * packed;
    block.width = Micro::kAllColumns ? segment.columns : least(Micro::kPanelColumns, segment.columns - n);
    block.depth = segment.depth;
    block.columns = {};
    block.columns.bias = segment.bias ? segment.bias + n : nullptr;
    if constexpr (Format::kScaled) {
      block.columns.row_scale = x.scale + some.begin * x.groups + group;
      block.columns.row_scale_stride = x.groups;
      block.columns.scale = segment.scale + n;
      if (segment.start) block.columns.start = segment.start + n;
    }
    block.accumulate = segment.accumulate;
    block.activation = activation;
    block.y = target.y + some.begin * target.y_row_stride + segment.out_begin + n;
    block.y_row_stride = target.y_row_stride;
    block.rounded =
        target.rounded ? target.rounded + some.begin * target.rounded_row_stride + segment.out_begin + n : nullptr;
    block.rounded_row_stride = target.rounded_row_stride;
    if (far_y) {
      fetched[0] = lines_of(block.y, block.rows, block.width * kFloatBytes, target.y_row_stride * kFloatBytes);
    }
    micro.run(block, fetched);
  };
  // The rows of the block after this one's, spread over the panels that meet this one's.
  const auto fetch_rows = [&](int64_t t, int64_t panels) {
    if (!far_x || t + 1 >= blocks.count) return;
    const Rows following = blocks[t + 1];
    fetched[1] = lines_of(operands + following.begin * x.row_stride * Format::kPlanes,
                          (following.end - following.begin) * Format::kPlanes, segment.depth * kOperandBytes,
                          x.row_stride * kOperandBytes);
    fetched[1].most = divide_up(fetched[1].count, panels);
  };
  const bool panels_stay =
      !Micro::kRowsStay && packed * Micro::kPanelColumns * static_cast<int64_t>(sizeof(Weight)) <= kCachedPanel;
  if (panels_stay) {
    for (int64_t n = 0; n < segment.columns; n += Micro::kPanelColumns) {
      for (int64_t t = 0; t < blocks.count; ++t) {
        if (n == 0) fetch_rows(t, 1);
        run_block(blocks[t], n);
      }
    }
  } else {
    const int64_t panels = divide_up(segment.columns, Micro::kPanelColumns);
    for (int64_t t = 0; t < blocks.count; ++t) {
      const Rows some = blocks[t];
      fetch_rows(t, panels);
      constexpr int64_t kColumns = Micro::kAllColumns ? INT64_MAX : Micro::kPanelColumns;
      for (int64_t n = 0; n < segment.columns; n += kColumns) run_block(some, n);
    }
  }
}

// `rounded`: as in Target. Nothing waits in `micro` afterwards.
template <class Micro>
inline void run_product(Micro& micro, const Product& p, Rows rows, uint16_t* rounded = nullptr,
                        int64_t rounded_row_stride = 0) {
  for (int64_t s = 0; s < p.segment_count; ++s) {
    const Segment& segment = p.segments[s];
    // The activation follows a column's last segment, the one before the next column's first.
    const bool last = s + 1 == p.segment_count || !p.segments[s + 1].accumulate;
    const Segment* next = s + 1 < p.segment_count ? &segment + 1 : p.next;
    // The later segments of the same columns find these in the cache.
    const bool first = s == 0 || p.segments[s - 1].out_begin != segment.out_begin;
    const int64_t ahead = next ? packed_bytes<Micro>(next->columns, next->depth) : 0;
    run_segment(micro, p.x, segment, last ? p.activation : Activation::none,
                {p.y, p.y_row_stride, last ? rounded : nullptr, rounded_row_stride}, rows, p.far_x, p.far_y && first,
                {lines_of(next ? next->weight : nullptr, 1, ahead, 0), {}});
  }
  micro.finish();
}

template <class Micro>
inline void product(const Product& p, Rows rows) {
  Micro micro(rows.end - rows.begin);
  run_product(micro, p, rows);
}

}  // namespace
