#include "grouped_mlp.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "thread_team.h"
#include "workspace.h"

namespace squeezebert {
namespace {

constexpr int64_t kHiddenColumns = 192;  // of a chunk: its weights and their gradients fit a second-level cache of 1 MB
constexpr int64_t kTasksPerThread = 2;
constexpr int64_t kBlockRows = 128, kSmallBlockRows = 32;  // that meet a chunk's weights while they are in the cache
constexpr int64_t kElementsPerTask = 16 * 1024;

int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }
int64_t aligned(int64_t bytes) { return divide_up(bytes, 64) * 64; }

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
// sums its part of x's gradient apart, and the parts are added up in the end.
struct Run {
  const GroupedMlpBackward& block;
  PackedSegments segments;
  int64_t hidden, chunks, parts;                // of a group
  std::vector<FeedForwardBackward::Chunk> all;  // group by group
  std::vector<int64_t> first_segment;           // of every chunk: in, back_out, back_in, end
  const TrainingKernels* kernels = nullptr;
  char* scratch = nullptr;
  int64_t scratch_bytes = 0;
  float* partial_x = nullptr;  // [parts - 1, rows, in_channels]

  Run(const KernelTable& k, const GroupedMlpBackward& b, int threads)
      : block(b), segments(k, Precision::float32), kernels(&k.training) {
    hidden = block.in.out_per_group();
    chunks = divide_up(hidden, kHiddenColumns);
    parts = std::clamp<int64_t>(divide_up(kTasksPerThread * threads, block.in.groups), 1, chunks);
    const ConvWeights back_out = transposed(block.out), back_in = transposed(block.in);
    for (int64_t task = 0; task < block.in.groups * parts; ++task) {
      const int64_t group = task / parts;
      const int64_t begin = first_chunk(task % parts), end = first_chunk(task % parts + 1);
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

  int64_t first_chunk(int64_t part) const { return chunks * part / parts; }

  void add_chunk(int64_t group, int64_t c, const ConvWeights& back_out, const ConvWeights& back_in, bool first) {
    const int64_t in = block.in.in_per_group(), out = block.out.out_per_group();
    const int64_t begin = hidden * c / chunks, end = hidden * (c + 1) / chunks, channel = group * hidden + begin;
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
                   first, false);
    });
  }

  void member(Team& team, int id) {
    const int64_t in = block.in.in_per_group(), out = block.out.out_per_group();
    const int64_t width = block.in.in_channels, size = block.rows * width;
    team.run(id, block.in.groups * parts, [&](int64_t task, int who) {
      const int64_t group = task / parts, part = task % parts;
      FeedForwardBackward work{};
      work.chunks = all.data() + group * chunks + first_chunk(part);
      work.chunk_count = first_chunk(part + 1) - first_chunk(part);
      work.activation = block.activation;
      work.rows = block.rows;
      work.in_begin = group * in;
      work.in = in;
      work.out_begin = group * out;
      work.out = out;
      work.x = block.x;
      work.x_row_stride = width;
      work.grad = block.grad;
      work.grad_row_stride = block.out.out_channels;
      if (block.grad_x) work.grad_x = part == 0 ? block.grad_x : partial_x + (part - 1) * size;
      work.grad_x_row_stride = width;
      work.grad_out_row_stride = hidden;
      kernels->feed_forward_backward(work, scratch + who * scratch_bytes);
    });
    if (!block.grad_x || parts == 1) return;
    team.run(id, divide_up(size, kElementsPerTask), [&](int64_t task, int) {
      const int64_t begin = task * kElementsPerTask, end = std::min(size, begin + kElementsPerTask);
      for (int64_t part = 1; part < parts; ++part) {
        const float* from = partial_x + (part - 1) * size;
        for (int64_t i = begin; i < end; ++i) block.grad_x[i] += from[i];
      }
    });
  }
};

}  // namespace

PackedGroupedMlp::PackedGroupedMlp(const KernelTable& kernels, const ConvWeights& in, const ConvWeights& out,
                                   int threads)
    : segments_(kernels, Precision::float32),
      groups_(in.groups),
      in_channels_(in.in_channels),
      hidden_channels_(in.out_channels),
      out_channels_(out.out_channels) {
  ConvWeights first = in, second = out;
  first.bias = second.bias = nullptr;
  const int64_t hidden = in.out_per_group(), count = divide_up(hidden, kHiddenColumns);
  for (int64_t group = 0; group < groups_; ++group) {
    for (int64_t c = 0; c < count; ++c) {
      const int64_t begin = hidden * c / count, end = hidden * (c + 1) / count, channel = group * hidden + begin;
      Chunk chunk{segments_.size(), 0, 0, channel, end - begin};
      segments_.add({{first, channel, end - begin, 0}}, group * in.in_per_group(), channel);
      chunk.out = segments_.size();
      cut(0, out.out_per_group(), kSegmentColumns, [&](int64_t row, int64_t stop) {
        const int64_t target = group * out.out_per_group() + row;
        segments_.add({{second, target, stop - row, 0}}, group * hidden, target, begin, end - begin, c == 0,
                      c + 1 == count);
      });
      chunk.end = segments_.size();
      chunks_.push_back(chunk);
    }
  }
  segments_.pack(threads);
}

void PackedGroupedMlp::run(const float* x, int64_t rows, const float* bias_in, const float* bias_out, float* y,
                           Activation activation, int threads) const {
  if (rows <= 0) return;
  const PrecisionKernels& kernels = segments_.precision_kernels();
  std::vector<Segment> segments(segments_.data(), segments_.data() + segments_.size());
  std::vector<FeedForward::Chunk> chunks;
  // Kernels read whole vectors of a bias.
  std::vector<float> biases(static_cast<std::size_t>(hidden_channels_ + out_channels_ + 128));
  if (bias_in) std::copy_n(bias_in, hidden_channels_, biases.data());
  float* const second = biases.data() + hidden_channels_ + 64;
  if (bias_out) std::copy_n(bias_out, out_channels_, second);
  for (const Chunk& chunk : chunks_) {
    for (int64_t i = chunk.in; i < chunk.end; ++i) {
      Segment& segment = segments[static_cast<std::size_t>(i)];
      const float* bias = i < chunk.out ? (bias_in ? biases.data() : nullptr) : (bias_out ? second : nullptr);
      segment.bias = segment.bias && bias ? bias + segment.out_begin : nullptr;
    }
    chunks.push_back({segments.data() + chunk.in, chunk.out - chunk.in, segments.data() + chunk.out,
                      chunk.end - chunk.out, chunk.hidden_begin, chunk.hidden});
  }
  struct Pass {
    std::vector<FeedForward> blocks;
    const PrecisionKernels& kernels;
    int64_t rows, block_rows, row_blocks;
    char* scratch;
    int64_t scratch_bytes;
  } pass{{}, kernels, rows, kBlockRows, 0, nullptr, 0};
  const auto per_group = static_cast<int64_t>(chunks.size()) / groups_;
  for (int64_t group = 0; group < groups_; ++group) {
    pass.blocks.push_back({{const_cast<float*>(x), in_channels_, nullptr, 1, in_channels_},
                           chunks.data() + group * per_group,
                           per_group,
                           activation,
                           y,
                           out_channels_,
                           nullptr});
    pass.scratch_bytes = std::max(pass.scratch_bytes, aligned(kernels.feed_forward_scratch(pass.blocks.back())));
  }
  if (divide_up(rows, kBlockRows) * groups_ < kTasksPerThread * threads) pass.block_rows = kSmallBlockRows;
  pass.row_blocks = divide_up(rows, pass.block_rows);
  threads = static_cast<int>(std::clamp<int64_t>(pass.row_blocks * groups_, 1, threads));
  const Workspace workspace(pass.scratch_bytes * threads);
  pass.scratch = workspace.data();
  run_team(
      threads,
      [](void* context, Team& team, int id) {
        const Pass& p = *static_cast<const Pass*>(context);
        team.run(id, p.row_blocks * static_cast<int64_t>(p.blocks.size()), [&](int64_t task, int who) {
          const int64_t block = task % p.row_blocks;  // rows of one group follow each other
          p.kernels.feed_forward(p.blocks[static_cast<std::size_t>(task / p.row_blocks)],
                                 {p.rows * block / p.row_blocks, p.rows * (block + 1) / p.row_blocks},
                                 p.scratch + who * p.scratch_bytes);
        });
      },
      &pass);
}

void grouped_mlp_backward(const KernelTable& kernels, const GroupedMlpBackward& block, int threads) {
  Run run(kernels, block, threads);
  const int64_t widest = divide_up(run.hidden, run.chunks);
  run.scratch_bytes = aligned(
      kernels.training.feed_forward_backward_scratch(block.in.in_per_group(), widest, block.out.out_per_group()));
  const int64_t partial = block.grad_x ? (run.parts - 1) * block.rows * block.in.in_channels : 0;
  const Workspace workspace(run.scratch_bytes * threads + aligned(partial * 4));
  run.scratch = workspace.data();
  run.partial_x = reinterpret_cast<float*>(workspace.data() + run.scratch_bytes * threads);
  run_team(threads, [](void* r, Team& team, int id) { static_cast<Run*>(r)->member(team, id); }, &run);
}

}  // namespace squeezebert
