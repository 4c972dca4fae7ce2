#include <algorithm>
#include <vector>

#include "grouped_mlp.h"
#include "sizes.h"
#include "thread_team.h"
#include "weight_gradient.h"
#include "workspace.h"

namespace squeezebert {
namespace {

// The convolution that takes a gradient back through `conv`.
ConvWeights transposed(const ConvWeights& conv) {
  ConvWeights back = conv;
  back.bias = nullptr;
  back.in_channels = conv.out_channels;
  back.out_channels = conv.in_channels;
  back.transposed = true;
  return back;
}

// A task is a group and some of its chunks, one after the other. Where a group is several tasks, each but the first
// sums what it has of x's gradient apart, and these sums are added up in the end. Where that gradient is rounded, so
// does the first.
struct Backward {
  const GroupedMlpBackward& block;
  PackedSegments segments;
  const std::vector<int64_t> bounds;            // of the chunks of a group
  const int64_t hidden, chunks, tasks;          // of a group
  std::vector<FeedForwardBackward::Chunk> all;  // group by group
  std::vector<int64_t> first_segment;           // of every chunk: in, back_out, back_in, end
  const PrecisionKernels* const kernels;
  char* scratch = nullptr;
  int64_t scratch_bytes = 0;
  float* partial_x = nullptr;  // [partials, rows, in_channels]

  Backward(const KernelTable& k, Precision precision, const GroupedMlpBackward& b, int threads)
      : block(b),
        segments(k, precision),
        bounds(bounds_of_equal_chunks(b.in.out_per_group())),
        hidden(b.in.out_per_group()),
        chunks(static_cast<int64_t>(bounds.size()) - 1),
        tasks(std::clamp<int64_t>(divide_up(kMlpTasksPerThread * threads, b.in.groups), 1, chunks)),
        kernels(&gradient_kernels(k, precision, b.element)) {
    const ConvWeights back_out = transposed(block.out), back_in = transposed(block.in);
    for (int64_t task = 0; task < block.in.groups * tasks; ++task) {
      const int64_t group = task / tasks;
      const int64_t begin = first_chunk(task % tasks), end = first_chunk(task % tasks + 1);
      for (int64_t c = begin; c < end; ++c) add_chunk(group, c, back_out, back_in, c == begin);
    }
    first_segment.push_back(segments.size());
    segments.pack(threads);
    for (std::size_t c = 0; c < all.size(); ++c) {
      const int64_t* at = &first_segment[3 * c];
      all[c].in = segments.data() + at[0];
      all[c].in_count = at[1] - at[0];
      all[c].back_out = segments.data() + at[1];
      all[c].back_out_count = at[2] - at[1];
      all[c].back_in = segments.data() + at[2];
      all[c].back_in_count = at[3] - at[2];
    }
  }

  bool rounds() const { return block.element == Element::bfloat16; }
  int64_t partials() const { return block.grad_x ? tasks - !rounds() : 0; }
  int64_t first_chunk(int64_t task) const { return chunks * task / tasks; }

  void add_chunk(int64_t group, int64_t c, const ConvWeights& back_out, const ConvWeights& back_in, bool first) {
    const int64_t in = block.in.in_per_group(), out = block.out.out_per_group();
    const int64_t begin = bounds[static_cast<std::size_t>(c)], end = bounds[static_cast<std::size_t>(c) + 1];
    const int64_t channel = group * hidden + begin;
    FeedForwardBackward::Chunk chunk{};
    chunk.hidden_begin = channel;
    chunk.hidden = end - begin;
    if (block.grad_weight_in) chunk.grad_in = block.grad_weight_in + channel * in;
    if (block.grad_bias_in) chunk.grad_bias_in = block.grad_bias_in + channel;
    if (block.grad_weight_out) chunk.grad_out = block.grad_weight_out + group * out * hidden + begin;
    if (block.grad_bias_out && c == 0) chunk.grad_bias_out = block.grad_bias_out + group * out;
    all.push_back(chunk);
    first_segment.push_back(segments.size());
    segments.add({{block.in, channel, chunk.hidden, 0}}, group * in, channel);
    first_segment.push_back(segments.size());
    segments.add({{back_out, channel, chunk.hidden, 0}}, group * out, channel);
    first_segment.push_back(segments.size());
    cut(0, in, kSegmentColumns, [&](int64_t row, int64_t stop) {
      segments.add({{back_in, group * in + row, stop - row, 0}}, group * hidden, group * in + row, begin, end - begin,
                   first);
    });
  }

  void member(Team& team, int id) {
    const int64_t in = block.in.in_per_group(), out = block.out.out_per_group();
    const int64_t width = block.in.in_channels, size = block.rows * width;
    team.run(id, block.in.groups * tasks, [&](int64_t task, int who) {
      const int64_t group = task / tasks, of_group = task % tasks;
      FeedForwardBackward work{};
      work.chunks = all.data() + group * chunks + first_chunk(of_group);
      work.chunk_count = first_chunk(of_group + 1) - first_chunk(of_group);
      work.activation = block.activation;
      work.rows = block.rows;
      work.in_begin = group * in;
      work.in = in;
      work.out_begin = group * out;
      work.out = out;
      work.element = block.element;
      work.x = block.x;
      work.x_row_stride = width;
      work.grad = block.grad;
      work.grad_row_stride = block.out.out_channels;
      if (block.grad_x) {
        const int64_t partial = of_group - !rounds();
        work.grad_x = partial < 0 ? static_cast<float*>(block.grad_x) : partial_x + partial * size;
      }
      work.grad_x_row_stride = width;
      work.grad_out_row_stride = hidden;
      kernels->feed_forward_backward(work, scratch + who * scratch_bytes);
    });
    if (partials() == 0) return;
    team.run(id, divide_up(size, kElementsPerTask), [&](int64_t task, int) {
      const int64_t begin = task * kElementsPerTask, end = std::min(size, begin + kElementsPerTask);
      float* const sum = rounds() ? partial_x : static_cast<float*>(block.grad_x);
      for (int64_t partial = rounds(); partial < partials(); ++partial) {
        const float* from = partial_x + partial * size;
        for (int64_t i = begin; i < end; ++i) sum[i] += from[i];
      }
      if (!rounds()) return;
      segments.kernels().training.round(sum + begin, 0, end - begin, {0, 1},
                                        static_cast<uint16_t*>(block.grad_x) + begin, 0);
    });
  }
};

}  // namespace

void grouped_mlp_backward(const KernelTable& kernels, Precision precision, const GroupedMlpBackward& block,
                          int threads) {
  Backward run(kernels, precision, block, threads);
  const int64_t widest = divide_up(run.hidden, run.chunks);
  run.scratch_bytes =
      aligned(run.kernels->feed_forward_backward_scratch(block.in.in_per_group(), widest, block.out.out_per_group()));
  const int64_t partial = run.partials() * block.rows * block.in.in_channels;
  const Workspace workspace(run.scratch_bytes * threads + aligned(partial * 4));
  run.scratch = workspace.data();
  run.partial_x = reinterpret_cast<float*>(workspace.data() + run.scratch_bytes * threads);
  run_team(threads, [&](Team& team, int id) { run.member(team, id); });
}

}  // namespace squeezebert
