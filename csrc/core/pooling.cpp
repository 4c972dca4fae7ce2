#include "pooling.h"

#include <algorithm>
#include <cmath>

#include "thread_team.h"

namespace squeezebert {
namespace {

constexpr int64_t kSums = 64;  // channels at a time

}  // namespace

void mean_pool(const MeanPool& pool, int threads) {
  run_tasks(pool.batch, threads, [&](int64_t sequence) {
    const int64_t begin = sequence * pool.tokens, end = begin + pool.tokens;
    const auto counts = [&](int64_t token) { return !pool.mask || pool.mask[token] != 0; };
    int64_t count = 0;
    for (int64_t t = begin; t < end; ++t) count += counts(t);
    const auto divisor = static_cast<double>(std::max<int64_t>(count, 1));
    for (int64_t first = 0; first < pool.channels; first += kSums) {
      const int64_t width = std::min(kSums, pool.channels - first);
      double sums[kSums] = {};
      for (int64_t t = begin; t < end; ++t) {
        if (!counts(t)) continue;
        const float* x = pool.x + t * pool.channels + first;
        for (int64_t c = 0; c < width; ++c) sums[c] += static_cast<double>(x[c]);
      }
      float* y = pool.y + sequence * pool.channels + first;
      for (int64_t c = 0; c < width; ++c) y[c] = static_cast<float>(sums[c] / divisor);
    }
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
