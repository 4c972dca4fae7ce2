#include "grouped_pointwise_conv.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>

#include "thread_team.h"

namespace squeezebert {
namespace {

constexpr std::size_t kAlignment = 64;  // a cache line: no weight vector crosses one

// Two orders of the tasks. Weights that fit into the second-level cache stay there, whatever the order; then a task is
// a short stretch of rows, and the groups of the same rows follow each other, so that whole rows of x and y are touched
// while they are near. Larger weights are used for many rows while a block of them is in that cache: the rows of one
// group follow each other. Each order was the faster one for its kind of weights on a 2-core Ice Lake server with
// 1.25 MB of second-level cache a core.
constexpr int64_t kCachedWeights = 640 * 1024;  // bytes
constexpr int64_t kTokensByGroup = 128, kTokensByRow = 32;
// Tasks a thread should get, so that one that the machine holds up doesn't hold up the rest.
constexpr int64_t kTasksPerThread = 4;
// Below this many multiply-adds a second thread costs more than it brings.
constexpr int64_t kSerialWork = 300'000;

int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

struct Plan {
  const KernelTable* kernels;
  GroupedPointwiseConv conv;
  int64_t tokens, token_blocks, column_blocks, panels;
  bool by_row;
};

void run_block(const void* context, int64_t index) {
  const Plan& plan = *static_cast<const Plan*>(context);
  const int64_t weight_blocks = plan.conv.groups * plan.column_blocks;
  const int64_t t = plan.by_row ? index / weight_blocks : index % plan.token_blocks;
  const int64_t w = plan.by_row ? index % weight_blocks : index / plan.token_blocks;
  const int64_t c = w % plan.column_blocks;
  const int64_t panel_columns = plan.kernels->panel_columns;
  Block block;
  block.group = w / plan.column_blocks;
  block.token_begin = plan.tokens * t / plan.token_blocks;
  block.token_end = plan.tokens * (t + 1) / plan.token_blocks;
  block.column_begin = plan.panels * c / plan.column_blocks * panel_columns;
  block.column_end = std::min(plan.panels * (c + 1) / plan.column_blocks * panel_columns, plan.conv.out_per_group);
  plan.kernels->grouped_pointwise_conv(plan.conv, block);
}

}  // namespace

void PackedGroupedPointwiseConv::Free::operator()(float* p) const { std::free(p); }

PackedGroupedPointwiseConv::PackedGroupedPointwiseConv(const KernelTable& kernels, const float* weight, int64_t groups,
                                                       int64_t out_per_group, int64_t in_per_group, int threads)
    : kernels_(kernels),
      groups_(groups),
      out_per_group_(out_per_group),
      in_per_group_(in_per_group),
      size_(groups * in_per_group * kernels.packed_columns(out_per_group)) {
  const std::size_t bytes =
      static_cast<std::size_t>(divide_up(std::max<int64_t>(size_ * 4, 1), kAlignment)) * kAlignment;
  packed_.reset(static_cast<float*>(std::aligned_alloc(kAlignment, bytes)));
  if (!packed_) throw std::bad_alloc();
  struct Context {
    PackedGroupedPointwiseConv* self;
    const float* weight;
  } context{this, weight};
  run_tasks(
      groups, threads,
      [](const void* c, int64_t group) {
        const auto& [self, source] = *static_cast<const Context*>(c);
        const int64_t from = self->out_per_group_ * self->in_per_group_;
        self->kernels_.pack_grouped_pointwise_conv(source + group * from, 1, self->out_per_group_, self->in_per_group_,
                                                   self->packed_.get() + group * (self->size_ / self->groups_));
      },
      &context);
  sampled_ = sample(weight);
}

std::array<uint32_t, PackedGroupedPointwiseConv::kSamples> PackedGroupedPointwiseConv::sample(
    const float* weight) const {
  std::array<uint32_t, kSamples> bits{};
  const int64_t size = groups_ * out_per_group_ * in_per_group_;
  const int64_t samples = std::min<int64_t>(kSamples, size);
  // The middle of each of 64 equal stretches: for a [768, 192] weight, 64 rows at varying columns.
  for (int64_t i = 0; i < samples; ++i)
    std::memcpy(&bits[i], weight + (2 * i + 1) * size / (2 * samples), sizeof(uint32_t));
  return bits;
}

bool PackedGroupedPointwiseConv::matches(const float* weight) const { return sample(weight) == sampled_; }

void PackedGroupedPointwiseConv::run(const float* x, int64_t x_row_stride, int64_t tokens, const float* bias, float* y,
                                     int64_t y_row_stride, Activation activation, int threads) const {
  if (tokens <= 0 || groups_ <= 0 || out_per_group_ <= 0) return;
  Plan plan;
  plan.kernels = &kernels_;
  plan.conv = {x,       packed_.get(), bias,           y,         x_row_stride, y_row_stride,
               groups_, in_per_group_, out_per_group_, activation};
  plan.tokens = tokens;
  plan.panels = divide_up(out_per_group_, kernels_.panel_columns);
  plan.by_row = bytes() <= kCachedWeights;
  plan.token_blocks = divide_up(tokens, plan.by_row ? kTokensByRow : kTokensByGroup);
  plan.column_blocks = 1;
  if (tokens * groups_ * out_per_group_ * in_per_group_ < kSerialWork) threads = 1;
  if (threads > 1) {
    // Columns are split before tokens: two threads that share rows but not weights read each weight once.
    const int64_t wanted = kTasksPerThread * threads;
    plan.column_blocks = std::clamp<int64_t>(divide_up(wanted, plan.token_blocks * groups_), 1, plan.panels);
    const int64_t tiles = divide_up(tokens, kernels_.tile_rows);
    if (plan.token_blocks * groups_ * plan.column_blocks < threads) {
      plan.token_blocks = std::clamp<int64_t>(divide_up(threads, groups_ * plan.column_blocks), 1, tiles);
    }
  }
  run_tasks(groups_ * plan.column_blocks * plan.token_blocks, threads, run_block, &plan);
}

}  // namespace squeezebert
