#include "../core/embeddings.h"
#include "support.h"
#include "third_party/doctest.h"

using namespace squeezebert;
using namespace squeezebert::test;

namespace {

constexpr int64_t kWords = 9, kPositions = 5, kTypes = 2, kTokens = 4, kRows = 8;  // two sequences of four tokens
constexpr int64_t kWordIds[kRows] = {0, 8, 3, 3, 7, 1, 0, 5};
constexpr int64_t kTypeIds[kRows] = {0, 0, 1, 1, 0, 1, 1, 0};

// Tables whose every row ends, or begins, at a page that can't be touched.
struct Numbers {
  Numbers(int64_t channels, Edge edge)
      : words(kWords * channels, edge),
        positions(kPositions * channels, edge),
        types(kTypes * channels, edge),
        weight(channels, edge),
        bias(channels, edge),
        channels(channels) {
    uint32_t seed = 1;
    for (const GuardedFloats* floats : {&words, &positions, &types, &weight, &bias}) {
      fill_random(floats->data(), floats->size(), seed++);
    }
  }

  Embeddings embeddings(float* y) const {
    Embeddings e{};
    e.tables[0] = {words.data(), false, nullptr, nullptr, kWords};
    e.tables[1] = {positions.data(), false, nullptr, nullptr, kPositions};
    e.tables[2] = {types.data(), false, nullptr, nullptr, kTypes};
    e.ids[0] = kWordIds;
    e.ids[2] = kTypeIds;
    e.tokens = kTokens;
    e.norm_weight = weight.data();
    e.norm_bias = bias.data();
    e.eps = 1e-12f;
    e.channels = channels;
    e.y = y;
    return e;
  }

  template <typename Real>
  std::vector<Real> plain() const {
    std::vector<Real> rows;
    for (int64_t r = 0; r < kRows; ++r) {
      std::vector<Real> row;
      for (int64_t c = 0; c < channels; ++c) {
        row.push_back(static_cast<Real>(words[kWordIds[r] * channels + c]) +
                      static_cast<Real>(positions[r % kTokens * channels + c]) +
                      static_cast<Real>(types[kTypeIds[r] * channels + c]));
      }
      plain_add_layer_norm<Real>(row.data(), nullptr, channels, weight.data(), bias.data(), 1e-12f);
      rows.insert(rows.end(), row.begin(), row.end());
    }
    return rows;
  }

  GuardedFloats words, positions, types, weight, bias;
  int64_t channels;
};

}  // namespace

TEST_CASE("embeddings are the normalised sums of rows") {
  for (const KernelTable* kernels : tested_builds()) {
    for (const int64_t channels : {2, 7, 16, 24, 33, 100, 768}) {
      for (const Edge edge : {Edge::begin, Edge::end}) {
        CAPTURE(name_of(*kernels));
        CAPTURE(channels);
        const Numbers numbers(channels, edge);
        const GuardedFloats y(kRows * channels, edge);
        REQUIRE(run_embeddings(*kernels, numbers.embeddings(y.data()), kRows, 2));
        const std::vector<double> exact = numbers.plain<double>();
        const double theirs = errors_of(exact, numbers.plain<float>(), kRows * channels).largest;
        CHECK(errors_of(exact, y.data(), kRows * channels).largest <= 2 * theirs + few_ulp(exact));
      }
    }
  }
}

TEST_CASE("words that are rounded as they are read have the bits of an int8 table") {
  for (const KernelTable* kernels : tested_builds()) {
    for (const int64_t channels : {2, 7, 16, 33, 768}) {
      CAPTURE(name_of(*kernels));
      CAPTURE(channels);
      const Numbers numbers(channels, Edge::end);
      numbers.words[3 * channels] = std::numeric_limits<float>::quiet_NaN();
      numbers.words[5 * channels + channels - 1] = std::numeric_limits<float>::infinity();
      std::fill_n(numbers.words.data() + 7 * channels, channels, 0.0f);
      std::fill_n(numbers.words.data() + 8 * channels, channels, 1e-38f);
      std::vector<int8_t> ints;
      std::vector<float> scales;
      for (int64_t w = 0; w < kWords; ++w) {
        const QuantizedRow row = quantized(numbers.words.data() + w * channels, channels);
        ints.insert(ints.end(), row.ints.begin(), row.ints.end());
        scales.push_back(row.scale);
      }
      std::vector<float> stored(static_cast<std::size_t>(kRows * channels)), in_place(stored);
      Embeddings e = numbers.embeddings(stored.data());
      e.tables[0] = {nullptr, false, ints.data(), scales.data(), kWords};
      REQUIRE(run_embeddings(*kernels, e, kRows, 1));
      e = numbers.embeddings(in_place.data());
      e.tables[0].rounded = true;
      REQUIRE(run_embeddings(*kernels, e, kRows, 1));
      for (int64_t r = 0; r < kRows; ++r) {
        const float *a = stored.data() + r * channels, *b = in_place.data() + r * channels;
        if (kWordIds[r] == 3 || kWordIds[r] == 5) {
          CHECK(std::all_of(a, a + channels, [](float v) { return std::isnan(v); }));
          CHECK(std::all_of(b, b + channels, [](float v) { return std::isnan(v); }));
        } else {
          CHECK(same_bits(a, b, channels));
        }
      }
    }
  }
}

TEST_CASE("an id that its table doesn't have is found before anything is written") {
  for (const KernelTable* kernels : tested_builds()) {
    const Numbers numbers(16, Edge::end);
    for (const int64_t wrong : {int64_t{-1}, kWords}) {
      int64_t ids[kRows];
      std::copy_n(kWordIds, kRows, ids);
      ids[kRows - 1] = wrong;
      std::vector<float> y(kRows * 16, 7.0f);
      Embeddings e = numbers.embeddings(y.data());
      e.ids[0] = ids;
      CHECK(!run_embeddings(*kernels, e, kRows, 1));
      e.ids[0] = kWordIds;
      e.tokens = kPositions + 1;
      CHECK(!run_embeddings(*kernels, e, kRows, 1));
      CHECK(std::all_of(y.begin(), y.end(), [](float v) { return v == 7.0f; }));
    }
  }
}
