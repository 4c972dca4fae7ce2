#include "grouped_pointwise_conv.h"

#include <algorithm>
#include <cstring>

#include "thread_team.h"

namespace squeezebert {
namespace {

// Two orders of the tasks. Weights that fit into the second-level cache stay there, whatever the order; then a task is
// a short stretch of rows, and the groups of the same rows follow each other, so that whole rows of x and y are touched
// while they are near. Larger weights are used for many rows while a block of them is in that cache: the rows of one
// group follow each other. Each order was the faster one for its kind of weights on a 2-core Ice Lake server with
// 1.25 MB of second-level cache a core.
constexpr int64_t kCachedWeights = 640 * 1024;  // bytes
constexpr int64_t kTokensByPiece = 128, kTokensByRow = 32;
// Tensors that may be found in a second-level cache.
constexpr int64_t kNearBytes = 1024 * 1024;
// Tasks a thread should get, so that one that the machine holds up doesn't hold up the rest.
constexpr int64_t kTasksPerThread = 4;
// Below this many multiply-adds a second thread costs more than it brings.
constexpr int64_t kSerialWork = 300'000;

int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }
int64_t aligned(int64_t bytes) { return divide_up(bytes, 64) * 64; }

}  // namespace

PackedGroupedPointwiseConv::PackedGroupedPointwiseConv(const KernelTable& kernels, Precision precision,
                                                       const ConvWeights& weights, int threads)
    : segments_(kernels, precision),
      groups_(weights.groups),
      scales_(weights.groups * weights.blocks),
      in_channels_(weights.in_channels),
      out_channels_(weights.out_channels) {
  ConvWeights conv = weights;
  conv.bias = nullptr;
  const int64_t group_size = conv.out_per_group();
  for (int64_t group = 0; group < groups_; ++group) {
    cut(0, group_size, kSegmentColumns, [&](int64_t row, int64_t stop) {
      const int64_t channel = group * group_size + row;
      pieces_.push_back(segments_.add({{conv, channel, stop - row, 0}}, group * conv.in_per_group(), channel));
    });
  }
  pieces_.push_back(segments_.size());
  segments_.pack(threads);
}

struct PackedGroupedPointwiseConv::Run {
  Product product;
  const PrecisionKernels* kernels;
  const float* x;
  int64_t x_row_stride, tokens, token_blocks, pieces;
  const std::vector<int64_t>* piece_begin;
  const std::vector<Segment>* segments;
  bool by_row;
  int threads;

  Rows rows(int64_t t) const { return {tokens * t / token_blocks, tokens * (t + 1) / token_blocks}; }

  void member(Team& team, int id) {
    if (kernels->operand_bytes > 0) {
      team.run(id, token_blocks, [&](int64_t t, int) { kernels->prepare(x, x_row_stride, rows(t), product.x); });
    }
    team.run(id, token_blocks * pieces, [&](int64_t task, int) {
      const int64_t t = by_row ? task / pieces : task % token_blocks;
      const int64_t piece = by_row ? task % pieces : task / token_blocks;
      const int64_t begin = (*piece_begin)[static_cast<std::size_t>(piece)];
      Product part = product;
      part.segments = segments->data() + begin;
      part.segment_count = (*piece_begin)[static_cast<std::size_t>(piece) + 1] - begin;
      const int64_t next = (task + threads) / token_blocks;  // the piece of the task this thread most likely takes
      if (!by_row && next > piece && next < pieces) {
        part.next = segments->data() + (*piece_begin)[static_cast<std::size_t>(next)];
      }
      kernels->product(part, rows(t));
    });
  }
};

void PackedGroupedPointwiseConv::run(const float* x, int64_t x_row_stride, int64_t tokens, const float* bias, float* y,
                                     int64_t y_row_stride, Activation activation, int threads) const {
  if (tokens <= 0 || out_channels_ <= 0) return;
  const PrecisionKernels& kernels = segments_.precision_kernels();
  const int64_t operands = tokens * in_channels_ * kernels.operand_bytes + 64;
  const int64_t scales = kernels.operand_bytes > 0 ? tokens * scales_ * 4 : 0;
  // Kernels read whole vectors of the bias.
  const int64_t bias_bytes = bias ? (out_channels_ + 64) * 4 : 0;
  const Workspace workspace(aligned(operands) + aligned(scales) + bias_bytes);
  char* memory = workspace.data();

  Run run{};
  run.kernels = &kernels;
  run.x = x;
  run.x_row_stride = x_row_stride;
  run.product.x = {const_cast<float*>(x), x_row_stride, nullptr, scales_, in_channels_};
  if (kernels.operand_bytes > 0) {
    run.product.x.data = memory;
    run.product.x.row_stride = in_channels_;
    run.product.x.scale = reinterpret_cast<float*>(memory + aligned(operands));
  }
  run.product.y = y;
  run.product.y_row_stride = y_row_stride;
  run.product.activation = activation;
  run.product.far_x = run.product.far_y = tokens * (in_channels_ + out_channels_) * 4 > kNearBytes;
  std::vector<Segment> segments(segments_.data(), segments_.data() + segments_.size());
  if (bias) {
    auto* padded = reinterpret_cast<float*>(memory + aligned(operands) + aligned(scales));
    std::memcpy(padded, bias, static_cast<std::size_t>(out_channels_) * sizeof(float));
    std::memset(padded + out_channels_, 0, 64 * sizeof(float));
    for (Segment& segment : segments) {
      if (segment.bias) segment.bias = padded + segment.out_begin;
    }
  } else {
    for (Segment& segment : segments) segment.bias = nullptr;
  }
  run.segments = &segments;
  run.piece_begin = &pieces_;
  run.pieces = static_cast<int64_t>(pieces_.size()) - 1;
  run.tokens = tokens;
  run.by_row = bytes() <= kCachedWeights;
  run.token_blocks = divide_up(tokens, run.by_row ? kTokensByRow : kTokensByPiece);
  if (tokens * out_channels_ * (in_channels_ / groups_) < kSerialWork) threads = 1;
  // Columns are split before tokens: two threads that share rows but not weights read each weight once.
  if (threads > 1 && run.token_blocks * run.pieces < kTasksPerThread * threads) {
    run.token_blocks =
        std::clamp(divide_up(threads, run.pieces), run.token_blocks, divide_up(tokens, segments_.kernels().tile_rows));
  }
  run.threads = threads;
  run_team(threads, [](void* r, Team& team, int id) { static_cast<Run*>(r)->member(team, id); }, &run);
}

}  // namespace squeezebert
