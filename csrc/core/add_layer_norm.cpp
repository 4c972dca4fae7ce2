#include "add_layer_norm.h"

#include <algorithm>
#include <vector>

#include "scratch.h"
#include "sizes.h"
#include "thread_team.h"

namespace squeezebert {
namespace {

constexpr int64_t kRowsPerTask = 32;  // whose sums are added up first: a gradient's bits depend on it

}  // namespace

void layer_norm(const KernelTable& kernels, const LayerNorm& norm, float* x, int64_t rows, int threads) {
  const AddLayerNorm alone{norm.weight, norm.bias, norm.eps, norm.channels, nullptr, 0, x, norm.channels, {}};
  run_tasks(divide_up(rows, kRowsPerTask), threads, [&](int64_t task) {
    kernels.precision[static_cast<int>(Precision::float32)].add_layer_norm(
        alone, {task * kRowsPerTask, std::min((task + 1) * kRowsPerTask, rows)});
  });
}

void add_layer_norm_forward(const KernelTable& kernels, const AddLayerNormForward& norm, int64_t rows, int threads) {
  run_with_scratch(divide_up(rows, kRowsPerTask), threads, norm.channels * 4, [&](int64_t task, char* scratch) {
    kernels.training.add_layer_norm_forward(norm, {task * kRowsPerTask, std::min((task + 1) * kRowsPerTask, rows)},
                                            reinterpret_cast<float*>(scratch));
  });
}

// The vectors' gradients are sums over all rows: each task sums its own, and those sums are added up in order, so that
// the result doesn't depend on the number of threads.
void add_layer_norm_backward(const KernelTable& kernels, const AddLayerNormBackward& norm, int64_t rows, int threads) {
  const int64_t tasks = divide_up(rows, kRowsPerTask), channels = norm.channels;
  std::vector<float> sums(static_cast<std::size_t>(2 * tasks * channels));
  run_with_scratch(tasks, threads, channels * 4, [&](int64_t task, char* scratch) {
    AddLayerNormBackward own = norm;
    float* own_sums = sums.data() + 2 * task * channels;
    if (norm.grad_weight) own.grad_weight = own_sums;
    if (norm.grad_bias) own.grad_bias = own_sums + channels;
    kernels.training.add_layer_norm_backward(own, {task * kRowsPerTask, std::min((task + 1) * kRowsPerTask, rows)},
                                             reinterpret_cast<float*>(scratch));
  });
  float* const results[] = {norm.grad_weight, norm.grad_bias};
  for (int64_t which = 0; which < 2; ++which) {
    float* result = results[which];
    if (!result) continue;
    std::fill_n(result, channels, 0.0f);
    for (int64_t task = 0; task < tasks; ++task) {
      const float* of_task = sums.data() + (2 * task + which) * channels;
      for (int64_t i = 0; i < channels; ++i) result[i] += of_task[i];
    }
  }
}

}  // namespace squeezebert
