// The numbers that dropout is made of.
#include "../core/dropout.h"
#include "third_party/doctest.h"
#include "training_support.h"

using namespace squeezebert;
using namespace squeezebert::test;

TEST_CASE("Philox 4x32-10 gives the published numbers") {
  const Philox zeros(0, 0, 0, 0, 0);
  CHECK(zeros.numbers[0] == 0x6627e8d5);
  CHECK(zeros.numbers[1] == 0xe169c58d);
  CHECK(zeros.numbers[2] == 0xbc57ac4c);
  CHECK(zeros.numbers[3] == 0x9b00dbd8);
  const uint32_t ones = 0xffffffff;
  const Philox all(~0ull, ones, ones, ones, ones);
  CHECK(all.numbers[0] == 0x408f276d);
  CHECK(all.numbers[1] == 0x41c83b0e);
  CHECK(all.numbers[2] == 0xa20bc7c6);
  CHECK(all.numbers[3] == 0x6d5451fd);
}

TEST_CASE("a dropout's threshold and scale are those of its probability") {
  CHECK(dropout_of(0, 1).threshold == 0);
  CHECK(dropout_of(0.5, 1).threshold == 0x80000000u);
  CHECK(dropout_of(0.5, 1).scale == 2.0f);
  CHECK(dropout_of(1, 1).threshold == 0xffffffffu);
  CHECK(dropout_of(1, 1).scale == 0.0f);
  CHECK(dropout_of(1e-12, 1).threshold == 1);
}

TEST_CASE("dropout multiplies each element by its place's factor, on any number of threads") {
  for (int64_t channels : {1, 3, 16, 63, 64, 65, 257, 768}) {
    for (int64_t rows : {0, 1, 5, 70}) {
      for (double probability : {0.0, 0.4, 1.0}) {
        const Dropout dropout = dropout_of(probability, kDropoutSeed);
        for (const Edge edge : {Edge::begin, Edge::end}) {
          const Guarded x(rows * channels, 1, edge);
          std::vector<float> expected;
          for (int64_t i = 0; i < x.size(); ++i) {
            expected.push_back(x[i] * static_cast<float>(keep_factor(dropout, i / channels, i % channels)));
          }
          for (const KernelTable* kernels : tested_builds()) {
            CAPTURE(name_of(*kernels));
            CAPTURE(rows);
            CAPTURE(channels);
            CAPTURE(probability);
            const GuardedFloats y(rows * channels, edge), again(rows * channels, edge);
            apply_dropout(*kernels, dropout, x.data(), y.data(), rows, channels, 1);
            apply_dropout(*kernels, dropout, x.data(), again.data(), rows, channels, 3);
            CHECK(same_bits(y.data(), again.data(), y.size()));
            CHECK(same_bits(y.data(), expected.data(), y.size()));
          }
        }
      }
    }
  }
}
