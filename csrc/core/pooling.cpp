#include "pooling.h"

#include <algorithm>
#include <cmath>

#include "thread_team.h"

namespace squeezebert {

void mean_pool(const MeanPool& pool, int threads) {
  run_tasks(pool.batch, threads, [&](int64_t sequence) {
    float* y = pool.y + sequence * pool.channels;
    std::fill_n(y, pool.channels, 0.0f);
    int64_t count = 0;
    for (int64_t t = sequence * pool.tokens; t < (sequence + 1) * pool.tokens; ++t) {
      if (pool.mask && pool.mask[t] == 0) continue;
      ++count;
      const float* x = pool.x + t * pool.channels;
      for (int64_t c = 0; c < pool.channels; ++c) y[c] += x[c];
    }
    const auto divisor = static_cast<float>(std::max<int64_t>(count, 1));
    for (int64_t c = 0; c < pool.channels; ++c) y[c] /= divisor;
  });
}

void to_unit_length(float* x, int64_t rows, int64_t channels) {
  for (int64_t r = 0; r < rows; ++r, x += channels) {
    double squares = 0;
    for (int64_t c = 0; c < channels; ++c) squares += static_cast<double>(x[c]) * static_cast<double>(x[c]);
    const auto length = std::max(static_cast<float>(std::sqrt(squares)), 1e-12f);
    for (int64_t c = 0; c < channels; ++c) x[c] /= length;
  }
}

}  // namespace squeezebert
