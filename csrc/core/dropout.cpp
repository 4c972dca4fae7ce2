#include "dropout.h"

#include <algorithm>
#include <cmath>

#include "sizes.h"
#include "thread_team.h"

namespace squeezebert {

Dropout dropout_of(double probability, uint64_t seed) {
  if (probability <= 0) return {seed, 0, 1};
  const double threshold = std::min(std::max(std::nearbyint(probability * 4294967296.0), 1.0), 4294967295.0);
  return {seed, static_cast<uint32_t>(threshold), probability < 1 ? static_cast<float>(1 / (1 - probability)) : 0.0f};
}

void apply_dropout(const KernelTable& kernels, const Dropout& dropout, const void* x, void* y, int64_t rows,
                   int64_t channels, int threads, Element element) {
  const int64_t rows_per_task = std::max<int64_t>(1, kElementsPerTask / std::max<int64_t>(1, channels));
  run_tasks(divide_up(rows, rows_per_task), threads, [&](int64_t task) {
    const int64_t begin = task * rows_per_task;
    kernels.training.dropout(dropout, x, y, channels, {begin, std::min(begin + rows_per_task, rows)}, element);
  });
}

}  // namespace squeezebert
