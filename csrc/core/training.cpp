#include "training.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "packed_segments.h"
#include "thread_team.h"
#include "workspace.h"

namespace squeezebert {
namespace {

constexpr int64_t kRowsPerTask = 32;
constexpr int64_t kElementsPerTask = 16 * 1024;
// Rows and columns of a weight's gradient that a task computes: the larger, the fewer copies of its operands, where
// that leaves every thread enough tasks.
constexpr int64_t kWeightPiece = 384, kSmallWeightPiece = 192;
constexpr int64_t kTasksPerThread = 4;

int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }
int64_t aligned(int64_t bytes) { return divide_up(bytes, 64) * 64; }

// Calls body(task, scratch) for every task, with `bytes` of scratch for each thread.
template <class Body>
void run_with_scratch(int64_t tasks, int threads, int64_t bytes, const Body& body) {
  threads = static_cast<int>(std::clamp<int64_t>(tasks, 1, threads));
  const Workspace workspace(aligned(bytes) * threads);
  struct Run {
    int64_t tasks, bytes;
    char* memory;
    const Body& body;
  } run{tasks, aligned(bytes), workspace.data(), body};
  run_team(
      threads,
      [](void* context, Team& team, int id) {
        const Run& r = *static_cast<const Run*>(context);
        team.run(id, r.tasks, [&](int64_t task, int member) { r.body(task, r.memory + member * r.bytes); });
      },
      &run);
}

HeadTensors head_of(const AttentionTensors& t, int64_t task) {
  const int64_t sequence = task / t.heads, head = task % t.heads, channels = t.heads * t.head_size;
  HeadTensors h{};
  h.head_size = t.head_size;
  h.queries = t.queries;
  h.keys = t.keys;
  h.q = t.q + sequence * t.queries * channels + head * t.head_size;
  h.k = t.k + sequence * t.keys * channels + head * t.head_size;
  h.v = t.v + sequence * t.keys * channels + head * t.head_size;
  h.q_row_stride = h.k_row_stride = h.v_row_stride = channels;
  h.scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(t.head_size)));
  if (t.mask) h.mask = t.mask + sequence * t.mask_strides[0] + head * t.mask_strides[1];
  h.mask_row_stride = t.mask_strides[2];
  h.dropout = t.dropout;
  h.dropout_row = task * t.queries;
  h.statistics = t.statistics + task * t.queries * 2;
  return h;
}

}  // namespace

Dropout dropout_of(double probability, uint64_t seed) {
  if (probability <= 0) return {seed, 0, 1};
  const double threshold = std::min(std::max(std::nearbyint(probability * 4294967296.0), 1.0), 4294967295.0);
  return {seed, static_cast<uint32_t>(threshold), probability < 1 ? static_cast<float>(1 / (1 - probability)) : 0.0f};
}

void attention_forward(const KernelTable& kernels, const AttentionTensors& t, float* context, int threads) {
  const int64_t channels = t.heads * t.head_size;
  run_with_scratch(t.batch * t.heads, threads, kernels.training.attention_scratch(head_of(t, 0)),
                   [&](int64_t task, char* scratch) {
                     const int64_t first = task / t.heads * t.queries * channels + task % t.heads * t.head_size;
                     kernels.training.attention_forward({head_of(t, task), context + first, channels}, scratch);
                   });
}

void attention_backward(const KernelTable& kernels, const AttentionTensors& t, const AttentionGradients& g,
                        int threads) {
  const int64_t channels = t.heads * t.head_size;
  run_with_scratch(
      t.batch * t.heads, threads, kernels.training.attention_scratch(head_of(t, 0)), [&](int64_t task, char* scratch) {
        const int64_t sequence = task / t.heads, channel = task % t.heads * t.head_size;
        const int64_t query = sequence * t.queries * channels + channel, key = sequence * t.keys * channels + channel;
        kernels.training.attention_backward({head_of(t, task), g.grad + query, channels, g.q + query, g.k + key,
                                             g.v + key, channels, channels, channels},
                                            scratch);
      });
}

void add_layer_norm_forward(const KernelTable& kernels, const AddLayerNormForward& norm, int64_t rows, int threads) {
  run_with_scratch(divide_up(rows, kRowsPerTask), threads, 0, [&](int64_t task, char*) {
    kernels.training.add_layer_norm_forward(norm, {task * kRowsPerTask, std::min((task + 1) * kRowsPerTask, rows)});
  });
}

// The vectors' gradients are sums over all rows: each task sums its own, and those sums are added up in order, so that
// the result doesn't depend on the number of threads.
void add_layer_norm_backward(const KernelTable& kernels, const AddLayerNormBackward& norm, int64_t rows, int threads) {
  const int64_t tasks = divide_up(rows, kRowsPerTask), channels = norm.channels;
  std::vector<float> sums(static_cast<std::size_t>(2 * tasks * channels));
  run_with_scratch(tasks, threads, 0, [&](int64_t task, char*) {
    AddLayerNormBackward part = norm;
    float* own = sums.data() + 2 * task * channels;
    if (norm.grad_weight) part.grad_weight = own;
    if (norm.grad_bias) part.grad_bias = own + channels;
    kernels.training.add_layer_norm_backward(part, {task * kRowsPerTask, std::min((task + 1) * kRowsPerTask, rows)});
  });
  float* const results[] = {norm.grad_weight, norm.grad_bias};
  for (int64_t which = 0; which < 2; ++which) {
    float* result = results[which];
    if (!result) continue;
    std::fill_n(result, channels, 0.0f);
    for (int64_t task = 0; task < tasks; ++task) {
      const float* part = sums.data() + (2 * task + which) * channels;
      for (int64_t i = 0; i < channels; ++i) result[i] += part[i];
    }
  }
}

void weight_gradient(const KernelTable& kernels, const GroupedGradients& g, int threads) {
  const int64_t in = g.in_channels / g.groups, out = g.out_channels / g.groups;
  std::vector<WeightGradient> pieces;
  const int64_t large =
      static_cast<int64_t>(g.all.size()) * g.groups * divide_up(out, kWeightPiece) * divide_up(in, kWeightPiece);
  const int64_t size = large >= kTasksPerThread * threads ? kWeightPiece : kSmallWeightPiece;
  for (int64_t group = 0; group < g.groups; ++group) {
    for (const GroupedGradients::Of& of : g.all) {
      cut(0, out, size, [&](int64_t first_row, int64_t row_end) {
        cut(0, in, size, [&](int64_t column, int64_t column_end) {
          const int64_t row = group * out + first_row;
          WeightGradient piece{};
          piece.grad = of.grad + row;
          piece.grad_row_stride = g.out_channels;
          piece.x = g.x + group * in + column;
          piece.x_row_stride = g.in_channels;
          piece.rows = g.rows;
          piece.out = row_end - first_row;
          piece.in = column_end - column;
          piece.y = of.weight + row * in + column;
          piece.y_row_stride = in;
          piece.bias = of.bias && column == 0 ? of.bias + row : nullptr;
          pieces.push_back(piece);
        });
      });
    }
  }
  const int64_t scratch_bytes = kernels.training.weight_gradient_scratch(std::min(out, size), std::min(in, size));
  run_with_scratch(static_cast<int64_t>(pieces.size()), threads, scratch_bytes, [&](int64_t task, char* scratch) {
    kernels.training.weight_gradient(pieces[static_cast<std::size_t>(task)], scratch);
  });
}

void activation_backward(const KernelTable& kernels, Activation activation, float* z, float* grad, int64_t count,
                         int threads) {
  run_with_scratch(divide_up(count, kElementsPerTask), threads, 0, [&](int64_t task, char*) {
    const int64_t first = task * kElementsPerTask;
    kernels.training.activation_backward(activation, false, z + first, grad + first,
                                         std::min(kElementsPerTask, count - first));
  });
}

}  // namespace squeezebert
