#include "dropout.h"

#include <algorithm>
#include <cmath>

namespace squeezebert {

Dropout dropout_of(double probability, uint64_t seed) {
  if (probability <= 0) return {seed, 0, 1};
  const double threshold = std::min(std::max(std::nearbyint(probability * 4294967296.0), 1.0), 4294967295.0);
  return {seed, static_cast<uint32_t>(threshold), probability < 1 ? static_cast<float>(1 / (1 - probability)) : 0.0f};
}

}  // namespace squeezebert
