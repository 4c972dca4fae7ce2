#include "../core/samples.h"
#include "support.h"
#include "third_party/doctest.h"

using namespace squeezebert;
using namespace squeezebert::test;

TEST_CASE("samples tell whether tensors are the same still") {
  for (int64_t size : {1, 60, 64, 192, 1000}) {
    CAPTURE(size);
    constexpr int64_t kCount = 64;
    std::vector<float> values = random_floats(size, 1);
    Samples samples;
    samples.add(values.data(), size, kCount);
    CHECK(samples.match());
    int64_t noticed = 0, last_noticed = -1, widest_gap = 0;
    for (int64_t i = 0; i < size; ++i) {
      float& value = values[static_cast<std::size_t>(i)];
      const float kept = value;
      value = -kept;
      if (!samples.match()) {
        ++noticed;
        widest_gap = std::max(widest_gap, i - last_noticed);
        last_noticed = i;
      }
      value = kept;
    }
    const int64_t taken = std::min(kCount, size);
    CHECK(noticed == taken);
    CHECK(widest_gap <= 2 * ((size + taken - 1) / taken));  // they are spread out
    CHECK(samples.match());
  }
}

TEST_CASE("samples compare bits, so a NaN that stays is no change and a zero that changes its sign is one") {
  float values[] = {std::numeric_limits<float>::quiet_NaN(), 0.0f};
  Samples samples;
  samples.add(values, 2, 2);
  CHECK(samples.match());
  values[1] = -0.0f;
  CHECK(!samples.match());
}

TEST_CASE("samples of several tensors notice a change in any") {
  std::vector<float> first = random_floats(5, 1), second = random_floats(7, 2);
  Samples samples;
  CHECK(samples.match());  // nothing remembered, nothing changed
  samples.add(first.data(), 5, 64);
  samples.add(second.data(), 7, 64);
  samples.add(nullptr, 0, 64);
  CHECK(samples.match());
  second[6] += 1;
  CHECK(!samples.match());
  second[6] = random_floats(7, 2)[6];
  CHECK(samples.match());
  first[0] += 1;
  CHECK(!samples.match());
}
