// Gradients of inputs, products on weights packed transposed, against plain loops in double.
#include "../core/grouped_pointwise_conv.h"
#include "third_party/doctest.h"
#include "training_support.h"

using namespace squeezebert;
using namespace squeezebert::test;

namespace {

struct TransposedShape {
  int64_t rows, groups, in, out;  // channels of a group
};

// Of the first `count` gradients and weights: the sum of what they take back to the input.
template <typename Real>
std::vector<Real> plain_sum(const TransposedShape& s, const std::vector<std::vector<float>>& grads,
                            const std::vector<std::vector<float>>& weights, std::size_t count) {
  std::vector<Real> x(static_cast<std::size_t>(s.rows * s.in * s.groups));
  for (int64_t r = 0; r < s.rows; ++r) {
    for (int64_t g = 0; g < s.groups; ++g) {
      for (int64_t i = 0; i < s.in; ++i) {
        Real sum = 0;
        for (std::size_t n = 0; n < count; ++n) {
          for (int64_t o = 0; o < s.out; ++o) {
            sum += static_cast<Real>(grads[n][static_cast<std::size_t>((r * s.groups + g) * s.out + o)]) *
                   static_cast<Real>(weights[n][static_cast<std::size_t>((g * s.out + o) * s.in + i)]);
          }
        }
        x[static_cast<std::size_t>((r * s.groups + g) * s.in + i)] = sum;
      }
    }
  }
  return x;
}

std::vector<std::vector<float>> rounded(std::vector<std::vector<float>> all) {
  for (std::vector<float>& values : all) {
    for (float& v : values) v = rounded_to_bfloat16(v);
  }
  return all;
}

void check_transposed(const TransposedShape& s, Precision precision) {
  std::vector<std::vector<float>> grads, weights;
  for (uint32_t i = 0; i < 3; ++i) {
    grads.push_back(random_floats(s.rows * s.out * s.groups, 1 + i));
    weights.push_back(random_floats(s.out * s.groups * s.in, 5 + i));
  }
  const bool rounds = rounds_operands(precision);
  const auto of_grads = rounds ? rounded(grads) : grads, of_weights = rounds ? rounded(weights) : weights;
  const auto exact = [&](std::size_t count) { return plain_sum<double>(s, of_grads, of_weights, count); };
  const auto plain = [&](std::size_t count) { return plain_sum<float>(s, of_grads, of_weights, count); };
  ConvWeights conv{nullptr, nullptr, nullptr, nullptr, s.groups, s.out * s.groups, s.in * s.groups};
  conv.transposed = true;
  for (const KernelTable* kernels : tested_builds()) {
    const std::vector<Precision> all = precisions_of(*kernels);
    if (std::find(all.begin(), all.end(), precision) == all.end()) continue;
    CAPTURE(name_of(*kernels));
    CAPTURE(name_of(precision));
    CAPTURE(s.groups);
    CAPTURE(s.in);
    CAPTURE(s.out);
    std::vector<PackedGroupedPointwiseConv> packed;
    for (const std::vector<float>& weight : weights) {
      conv.weight = weight.data();
      packed.emplace_back(*kernels, precision, conv, 2);
    }
    const int64_t size = s.rows * s.in * s.groups;
    const GuardedFloats x(size), sum(size), again(size);
    packed[0].run(grads[0].data(), s.out * s.groups, s.rows, nullptr, x.data(), s.in * s.groups, Activation::none, 2);
    check_errors(exact(1), plain(1), x, s.out, precision);
    const auto add_up = [&](const GuardedFloats& y, int threads) {
      std::vector<PackedGroupedPointwiseConv::Term> terms;
      for (std::size_t i = 0; i < 3; ++i) terms.push_back({&packed[i], grads[i].data(), nullptr, y.data()});
      PackedGroupedPointwiseConv::run_sum(terms, s.rows, threads);
    };
    add_up(sum, 1);
    add_up(again, 3);
    check_errors(exact(3), plain(3), sum, 3 * s.out, precision);
    CHECK(same_bits(sum.data(), again.data(), sum.size()));
  }
}

}  // namespace

TEST_CASE("transposed weights take a gradient back to the input, or a sum of several") {
  for (Precision precision : {Precision::float32, Precision::bfloat16, Precision::float32_highest,
                              Precision::float32_high, Precision::float32_medium}) {
    for (int64_t groups : {1, 3}) {
      for (int64_t in : {1, 7, 70, 200}) {
        for (int64_t out : {1, 9, 210, 500}) check_transposed({13, groups, in, out}, precision);
      }
    }
  }
}
