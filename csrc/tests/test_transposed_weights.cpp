// Gradients of inputs, products on weights packed transposed, against plain loops in double.
#include "../core/grouped_pointwise_conv.h"
#include "third_party/doctest.h"
#include "training_support.h"

using namespace squeezebert;
using namespace squeezebert::test;

TEST_CASE("transposed weights take a gradient back to the input, or a sum of several") {
  for (int64_t groups : {1, 3}) {
    for (int64_t in : {1, 7, 70, 200}) {
      for (int64_t out : {1, 9, 210, 500}) {
        const int64_t rows = 13;
        std::vector<std::vector<float>> grads, weights;
        for (uint32_t i = 0; i < 3; ++i) {
          grads.push_back(random_floats(rows * out * groups, 1 + i));
          weights.push_back(random_floats(out * groups * in, 5 + i));
        }
        const auto plain = [&](auto zero, std::size_t count) {
          std::vector<decltype(zero)> x(static_cast<std::size_t>(rows * in * groups));
          for (int64_t r = 0; r < rows; ++r) {
            for (int64_t g = 0; g < groups; ++g) {
              for (int64_t i = 0; i < in; ++i) {
                decltype(zero) sum = 0;
                for (std::size_t n = 0; n < count; ++n) {
                  for (int64_t o = 0; o < out; ++o) {
                    sum += static_cast<decltype(zero)>(grads[n][static_cast<std::size_t>((r * groups + g) * out + o)]) *
                           static_cast<decltype(zero)>(weights[n][static_cast<std::size_t>((g * out + o) * in + i)]);
                  }
                }
                x[static_cast<std::size_t>((r * groups + g) * in + i)] = sum;
              }
            }
          }
          return x;
        };
        ConvWeights conv{nullptr, nullptr, nullptr, nullptr, groups, out * groups, in * groups};
        conv.transposed = true;
        for (const KernelTable* kernels : tested_builds()) {
          CAPTURE(name_of(*kernels));
          CAPTURE(groups);
          CAPTURE(in);
          CAPTURE(out);
          std::vector<PackedGroupedPointwiseConv> packed;
          for (const std::vector<float>& weight : weights) {
            conv.weight = weight.data();
            packed.emplace_back(*kernels, Precision::float32, conv, 2);
          }
          const GuardedFloats x(rows * in * groups), sum(rows * in * groups), again(rows * in * groups);
          packed[0].run(grads[0].data(), out * groups, rows, nullptr, x.data(), in * groups, Activation::none, 2);
          check_errors(plain(0.0, 1), plain(0.0f, 1), x);
          const auto add_up = [&](const GuardedFloats& y, int threads) {
            std::vector<PackedGroupedPointwiseConv::Term> terms;
            for (std::size_t i = 0; i < 3; ++i) terms.push_back({&packed[i], grads[i].data(), nullptr, y.data()});
            PackedGroupedPointwiseConv::run_sum(terms, rows, threads);
          };
          add_up(sum, 1);
          add_up(again, 3);
          check_errors(plain(0.0, 3), plain(0.0f, 3), sum);
          CHECK(same_bits(sum.data(), again.data(), sum.size()));
        }
      }
    }
  }
}
