#include "../core/fingerprint.h"
#include "support.h"
#include "third_party/doctest.h"

using namespace squeezebert;
using namespace squeezebert::test;

namespace {

constexpr int64_t kEverything = Fingerprint::kRowsForAll;

}  // namespace

TEST_CASE("a change of any element shows once everything was compared") {
  for (int64_t size : {1, 15, 16, 17, 60, 192, 1000}) {
    for (int64_t span : {1, 16, 100, 4096}) {
      CAPTURE(size);
      CAPTURE(span);
      std::vector<float> values = random_floats(size, 1);
      Fingerprint fingerprint({{values.data(), size, span}}, 0, 2);
      CHECK(fingerprint.match(kEverything, 2));
      for (int64_t i = 0; i < size; ++i) {
        float& value = values[static_cast<std::size_t>(i)];
        const float kept = value;
        value = -kept;
        CHECK(!fingerprint.match(kEverything, 2));
        value = kept;
      }
      CHECK(fingerprint.match(kEverything, 2));
    }
  }
}

TEST_CASE("values that changed places show, whatever lies between them") {
  for (int64_t distance = 1; distance < 2048; ++distance) {
    std::vector<float> values(2048, 0.0f);
    values[0] = 1.0f;
    values[static_cast<std::size_t>(distance)] = 2.0f;
    Fingerprint fingerprint({{values.data(), 2048, 2048}}, 0, 1);
    std::swap(values[0], values[static_cast<std::size_t>(distance)]);
    CHECK(!fingerprint.match(1, 1));
  }
}

TEST_CASE("calls that add up to rows_for_all compare every span, each its share") {
  constexpr int64_t kSize = 4 << 20, kPiece = 4096, kRows = 128;  // 16 MB, of which a call of 128 rows compares a 32nd
  std::vector<float> values(kSize, 1.0f);
  Fingerprint fingerprint({{values.data(), kSize, kPiece}}, 0, 2);
  for (const int64_t changed : {int64_t{0}, int64_t{kSize / 2 + 5}, kSize - 1}) {
    values[static_cast<std::size_t>(changed)] = 2.0f;
    int64_t noticed = 0;
    for (int64_t rows = 0; rows < kEverything; rows += kRows) noticed += !fingerprint.match(kRows, 2);
    CHECK(noticed >= 1);
    CHECK(noticed <= 2);  // a span is compared once a round, twice where rounds meet
    values[static_cast<std::size_t>(changed)] = 1.0f;
  }
}

TEST_CASE("no span is left out of a round, however shares are rounded") {
  for (const int64_t size : {1'000'000, 99'991}) {
    for (const int64_t span : {24, 100}) {
      for (const int64_t rows : {4096, 5000, 8192}) {
        CAPTURE(size);
        CAPTURE(span);
        CAPTURE(rows);
        std::vector<float> values(static_cast<std::size_t>(size), 1.0f);
        // The last span of the first round is the one that shares which are too small don't reach.
        Fingerprint fingerprint({{values.data(), size, span}}, 0, 2);
        values.back() = 2.0f;
        int64_t noticed = 0;
        for (int64_t done = 0; done < kEverything; done += rows) noticed += !fingerprint.match(rows, 2);
        CHECK(noticed >= 1);
      }
    }
  }
}

TEST_CASE("samples show at every call, and are spread over the tensor") {
  constexpr int64_t kSamples = 64, kSize = 4 << 20;
  std::vector<float> values(kSize, 1.0f);
  Fingerprint fingerprint({{values.data(), kSize, kSize}}, kSamples, 1);
  for (int64_t stretch = 0; stretch < kSamples; ++stretch) {
    const auto begin = values.begin() + stretch * (kSize / kSamples);
    std::fill(begin, begin + kSize / kSamples, 2.0f);
    CHECK(!fingerprint.match(1, 1));
    std::fill(begin, begin + kSize / kSamples, 1.0f);
  }
}

TEST_CASE("without checksums there are the samples") {
  std::vector<float> values = random_floats(100, 1);
  Fingerprint fingerprint({{values.data(), 100, 0}}, 2, 1);
  values[0] += 1;
  CHECK(fingerprint.match(kEverything, 1));
  values[25] += 1;  // the middle of the first half
  CHECK(!fingerprint.match(1, 1));
}

TEST_CASE("bits are compared, so a NaN that stays is no change and a zero that changes its sign is one") {
  float values[] = {std::numeric_limits<float>::quiet_NaN(), 0.0f};
  Fingerprint fingerprint({{values, 2, 2}}, 2, 1);
  CHECK(fingerprint.match(1, 1));
  values[1] = -0.0f;
  CHECK(!fingerprint.match(1, 1));
}

TEST_CASE("a change in any of several tensors shows, and of none there is nothing to compare") {
  CHECK(Fingerprint({}, 64, 2).match(1, 2));
  std::vector<float> first = random_floats(5, 1), second = random_floats(7, 2);
  Fingerprint fingerprint({{first.data(), 5, 4096}, {second.data(), 7, 4096}, {nullptr, 0, 4096}}, 64, 2);
  CHECK(fingerprint.match(1, 1));
  second[6] += 1;
  CHECK(!fingerprint.match(1, 1));
  second[6] = random_floats(7, 2)[6];
  CHECK(fingerprint.match(1, 1));
  first[0] += 1;
  CHECK(!fingerprint.match(1, 1));
}

TEST_CASE("single spans, such as rows of a table, can be asked for") {
  constexpr int64_t kRows = 40, kChannels = 24;
  std::vector<float> table = random_floats(kRows * kChannels, 1);
  const Fingerprint fingerprint({{table.data(), kRows * kChannels, kChannels}}, 0, 1);
  table[7 * kChannels + 23] += 1;
  for (int64_t row = 0; row < kRows; ++row) CHECK(fingerprint.spans_match(&row, 1) == (row != 7));
  const int64_t some[] = {3, 7, 9}, beyond[] = {3, kRows}, before = -1;
  CHECK(!fingerprint.spans_match(some, 3));
  CHECK(fingerprint.spans_match(some, 1));
  CHECK(fingerprint.spans_match(nullptr, 0));
  CHECK(!fingerprint.spans_match(beyond, 2));
  CHECK(!fingerprint.spans_match(&before, 1));
}
