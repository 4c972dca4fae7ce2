// Activations, seen through a product over one channel with x = 1, whose sums are the weights themselves.
#include "../core/grouped_pointwise_conv.h"
#include "support.h"
#include "third_party/doctest.h"

using namespace squeezebert;
using namespace squeezebert::test;

namespace {

std::vector<float> activated(const KernelTable& kernels, Activation activation, const std::vector<float>& inputs) {
  const float one = 1;
  const auto count = static_cast<int64_t>(inputs.size());
  const PackedGroupedPointwiseConv packed(kernels, Precision::float32,
                                          {inputs.data(), nullptr, nullptr, nullptr, 1, 1, count}, 1);
  std::vector<float> outputs(inputs.size());
  packed.run(&one, 1, 1, nullptr, outputs.data(), count, activation, 1);
  return outputs;
}

std::vector<float> sweep() {
  std::vector<float> inputs;
  const auto step = static_cast<int>(tested_every());
  for (int i = -100'000; i <= 100'000; i += step) inputs.push_back(static_cast<float>(i) * 1e-4f);
  return inputs;
}

// Largest error of `outputs` against float64, in what the activation multiplies its input by.
double largest_factor_error(Activation activation, const std::vector<float>& inputs,
                            const std::vector<float>& outputs) {
  double worst = 0;
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    if (inputs[i] == 0) continue;
    const double x = inputs[i];
    worst = std::max(worst, std::fabs((static_cast<double>(outputs[i]) - activate(activation, x)) / x));
  }
  return worst;
}

}  // namespace

TEST_CASE("gelu is exact to 2e-7 of its input between -10 and 10") {
  const std::vector<float> inputs = sweep();
  for (const KernelTable* kernels : tested_builds()) {
    CAPTURE(name_of(*kernels));
    CHECK(largest_factor_error(Activation::gelu, inputs, activated(*kernels, Activation::gelu, inputs)) < 2e-7);
  }
}

TEST_CASE("an activation is as exact as its formula in float32") {
  const std::vector<float> inputs = sweep();
  for (Activation activation : kActivations) {
    std::vector<float> formula;
    for (float x : inputs) formula.push_back(activate(activation, x));
    const double theirs = largest_factor_error(activation, inputs, formula);
    for (const KernelTable* kernels : tested_builds()) {
      CAPTURE(name_of(*kernels));
      CAPTURE(name_of(activation));
      const double ours = largest_factor_error(activation, inputs, activated(*kernels, activation, inputs));
      CHECK(ours <= 2 * theirs + 4 * static_cast<double>(std::numeric_limits<float>::epsilon()));
    }
  }
}

TEST_CASE("an activation by itself has a product's bits") {
  const std::vector<float> inputs = sweep();
  for (Activation activation : kActivations) {
    for (const KernelTable* kernels : tested_builds()) {
      CAPTURE(name_of(*kernels));
      CAPTURE(name_of(activation));
      const std::vector<float> expected = activated(*kernels, activation, inputs);
      std::vector<float> values = inputs;
      kernels->activate(activation, values.data(), static_cast<int64_t>(values.size()));
      CHECK(same_bits(values.data(), expected.data(), static_cast<int64_t>(values.size())));
    }
  }
}

// float64 never overflows here, so it says where a float32 result is infinite, NaN or a number.
TEST_CASE("an activation treats NaN, infinity, zero, huge and tiny inputs as its formula does") {
  using Limits = std::numeric_limits<float>;
  std::vector<float> inputs = {0.0f, Limits::quiet_NaN()};
  for (float magnitude : {Limits::infinity(), Limits::max(), 1e20f, 1e10f, 1000.0f, 104.0f, 89.5f, 88.7f, 88.4f, 87.5f,
                          20.0f, 5.4f, 1.0f, 1e-10f, 1e-30f, Limits::min(), 1e-40f, Limits::denorm_min()}) {
    inputs.push_back(magnitude);
    inputs.push_back(-magnitude);
  }
  for (Activation activation : kActivations) {
    for (const KernelTable* kernels : tested_builds()) {
      const std::vector<float> outputs = activated(*kernels, activation, inputs);
      for (std::size_t i = 0; i < inputs.size(); ++i) {
        CAPTURE(name_of(*kernels));
        CAPTURE(name_of(activation));
        CAPTURE(inputs[i]);
        CAPTURE(outputs[i]);
        const double exact = activate(activation, static_cast<double>(inputs[i]));
        if (std::isfinite(exact)) {
          const double ulp =
              std::max(std::fabs(static_cast<double>(inputs[i])) * Limits::epsilon(), 1.0 * Limits::denorm_min());
          CHECK(std::fabs(static_cast<double>(outputs[i]) - exact) <= 4 * ulp);
        } else {
          CHECK(std::isnan(outputs[i]) == std::isnan(exact));
          CHECK(std::isinf(outputs[i]) == std::isinf(exact));
        }
      }
    }
  }
}
