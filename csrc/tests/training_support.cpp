#include "training_support.h"

#include <algorithm>

#include "../core/weight_gradient.h"

namespace squeezebert::test {

Philox::Philox(uint64_t seed, uint32_t c0, uint32_t c1, uint32_t c2, uint32_t c3) : numbers{c0, c1, c2, c3} {
  auto key0 = static_cast<uint32_t>(seed), key1 = static_cast<uint32_t>(seed >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t a = 0xD2511F53ull * numbers[0], b = 0xCD9E8D57ull * numbers[2];
    const uint32_t next[4] = {static_cast<uint32_t>(b >> 32) ^ numbers[1] ^ key0, static_cast<uint32_t>(b),
                              static_cast<uint32_t>(a >> 32) ^ numbers[3] ^ key1, static_cast<uint32_t>(a)};
    std::copy(next, next + 4, numbers);
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
}

double keep_factor(const Dropout& dropout, int64_t row, int64_t column) {
  if (dropout.threshold == 0) return 1;
  const Philox made(dropout.seed, static_cast<uint32_t>(column / 4), static_cast<uint32_t>(row),
                    static_cast<uint32_t>(row >> 32), 0);
  return made.numbers[column % 4] < dropout.threshold ? 0 : static_cast<double>(dropout.scale);
}

std::vector<GradientBuild> gradient_builds() {
  std::vector<GradientBuild> found;
  for (const KernelTable* table : tested_builds()) {
    for (Precision precision : precisions_of(*table)) {
      if (has_gradients(*table, precision)) found.push_back({table, precision});
    }
  }
  return found;
}

}  // namespace squeezebert::test
