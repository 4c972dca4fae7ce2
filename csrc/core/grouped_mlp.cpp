#include "grouped_mlp.h"

#include <algorithm>
#include <vector>

#include "row_operands.h"
#include "scratch.h"
#include "sizes.h"
#include "thread_team.h"
#include "workspace.h"

namespace squeezebert {

PackedGroupedMlp::PackedGroupedMlp(const KernelTable& kernels, Precision precision, const ConvWeights& in,
                                   const ConvWeights& out, int threads)
    : segments_(kernels, precision),
      groups_(in.groups),
      in_channels_(in.in_channels),
      hidden_channels_(in.out_channels),
      out_channels_(out.out_channels) {
  ConvWeights first = in, second = out;
  first.bias = second.bias = nullptr;
  const std::vector<int64_t> bounds = bounds_of_equal_chunks(in.out_per_group());
  for (int64_t group = 0; group < groups_; ++group) {
    const std::vector<FeedForwardChunk> of_group = add_feed_forward(segments_, first, second, group, bounds);
    chunks_.insert(chunks_.end(), of_group.begin(), of_group.end());
  }
  segments_.pack(threads);
}

void PackedGroupedMlp::run(const void* x, int64_t rows, const float* bias_in, const float* bias_out, void* y,
                           Activation activation, int threads, Element element) const {
  if (rows <= 0) return;
  const PrecisionKernels& kernels = segments_.precision_kernels();
  std::vector<Segment> segments(segments_.data(), segments_.data() + segments_.size());
  std::vector<float> biases(static_cast<std::size_t>(hidden_channels_ + out_channels_ + 2 * kSlackFloats));
  float* const second = biases.data() + hidden_channels_ + kSlackFloats;
  if (bias_in) std::copy_n(bias_in, hidden_channels_, biases.data());
  if (bias_out) std::copy_n(bias_out, out_channels_, second);
  const auto set_bias = [&](const Piece& piece, const float* bias) {
    for (int64_t i = piece.first; i < piece.first + piece.count; ++i) {
      Segment& segment = segments[static_cast<std::size_t>(i)];
      segment.bias = segment.bias && bias ? bias + segment.out_begin : nullptr;
    }
  };
  for (const FeedForwardChunk& chunk : chunks_) {
    set_bias(chunk.in, bias_in ? biases.data() : nullptr);
    set_bias(chunk.out, bias_out ? second : nullptr);
  }
  const bool few = divide_up(rows, kBlockRows) * groups_ < kMlpTasksPerThread * threads;
  const int64_t row_blocks = divide_up(rows, few ? kSmallBlockRows : kBlockRows);
  const auto rows_of = [&](int64_t block) { return Rows{rows * block / row_blocks, rows * (block + 1) / row_blocks}; };
  RowOperands input(segments_.kernels(), segments_.precision(), element, x, in_channels_, rows, in_channels_, 1);
  const Workspace workspace(input.bytes());
  input.place(workspace.data());
  if (input.bytes() > 0) run_tasks(row_blocks, threads, [&](int64_t block) { input.make(rows_of(block)); });
  const std::vector<FeedForward::Chunk> chunks = chunks_on(segments.data(), chunks_);
  const auto per_group = static_cast<int64_t>(chunks.size()) / groups_;
  std::vector<FeedForward> by_group;
  int64_t scratch_bytes = 0;
  for (int64_t group = 0; group < groups_; ++group) {
    by_group.push_back(
        {input.operands(), chunks.data() + group * per_group, per_group, activation, nullptr, out_channels_, nullptr});
    scratch_bytes = std::max(scratch_bytes, kernels.feed_forward_scratch(by_group.back()));
  }
  // A result that is rounded is made in scratch, chunk by chunk of the hidden channels.
  const bool rounded = element == Element::bfloat16;
  const int64_t columns = out_channels_ / groups_;
  scratch_bytes = aligned(scratch_bytes);
  const int64_t result_bytes = rounded ? divide_up(rows, row_blocks) * columns * 4 : 0;
  run_with_scratch(row_blocks * groups_, threads, scratch_bytes + result_bytes, [&](int64_t task, char* scratch) {
    const int64_t group = task / row_blocks, block = task % row_blocks;  // rows of one group follow each other
    const Rows of_block = rows_of(block);
    FeedForward work = by_group[static_cast<std::size_t>(group)];
    auto* result = reinterpret_cast<float*>(scratch + scratch_bytes);
    if (rounded) {
      work.y = result - of_block.begin * columns - group * columns;
      work.y_row_stride = columns;
    } else {
      work.y = static_cast<float*>(y);
    }
    kernels.feed_forward(work, of_block, scratch);
    if (!rounded) return;
    segments_.kernels().training.round(result, columns, columns, {0, of_block.end - of_block.begin},
                                       static_cast<uint16_t*>(y) + of_block.begin * out_channels_ + group * columns,
                                       out_channels_);
  });
}

}  // namespace squeezebert
