#include "samples.h"

#include <algorithm>
#include <cstring>

namespace squeezebert {
namespace {

uint32_t bits_at(const float* value) {
  uint32_t bits;
  std::memcpy(&bits, value, sizeof bits);
  return bits;
}

}  // namespace

void Samples::add(const float* values, int64_t size, int64_t count) {
  count = std::min(count, size);
  // For a [768, 192] weight and 64 samples: 64 rows at varying columns.
  for (int64_t i = 0; i < count; ++i) {
    const float* at = values + (2 * i + 1) * size / (2 * count);
    elements_.push_back({at, bits_at(at)});
  }
}

bool Samples::match() const {
  return std::all_of(elements_.begin(), elements_.end(), [](const Element& e) { return bits_at(e.at) == e.bits; });
}

}  // namespace squeezebert
