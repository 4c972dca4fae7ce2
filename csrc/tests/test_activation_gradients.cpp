// Derivatives of activations, through the tables.
#include "third_party/doctest.h"
#include "training_support.h"

using namespace squeezebert;
using namespace squeezebert::test;

TEST_CASE("an activation's derivative is that of its formula, far from zero too") {
  std::vector<float> places;
  for (float v : {0.0f, -0.0f, 1e-30f, -1e-30f, 1e-40f, 20.0f, -20.0f, 90.0f, -90.0f, 1e4f, -1e4f, 1e30f, -1e30f, 3e38f,
                  -3e38f}) {
    places.push_back(v);
  }
  for (int i = -600; i <= 600; ++i) places.push_back(static_cast<float>(i) / 50);
  const auto count = static_cast<int64_t>(places.size());
  for (Activation activation : kActivations) {
    std::vector<double> values, slopes;
    for (float v : places) {
      const double x = v, step = 1e-6 * std::max(1.0, std::fabs(x));
      values.push_back(activate(activation, x));
      if (activation == Activation::relu) {
        slopes.push_back(x > 0 ? 1 : 0);
      } else {
        slopes.push_back((activate(activation, x + step) - activate(activation, x - step)) / (2 * step));
      }
    }
    for (const KernelTable* kernels : tested_builds()) {
      CAPTURE(name_of(*kernels));
      CAPTURE(name_of(activation));
      const GuardedFloats z(count), grad(count), kept(count), other(count);
      std::copy(places.begin(), places.end(), z.data());
      std::copy(places.begin(), places.end(), kept.data());
      grad.fill(2);
      other.fill(2);
      kernels->training.activation_backward(activation, true, z.data(), grad.data(), count);
      kernels->training.activation_backward(activation, false, kept.data(), other.data(), count);
      CHECK(same_bits(grad.data(), other.data(), count));
      CHECK(std::equal(places.begin(), places.end(), kept.data()));
      for (int64_t i = 0; i < count; ++i) {
        CAPTURE(places[static_cast<std::size_t>(i)]);
        const double slope = activation == Activation::none ? 1 : slopes[static_cast<std::size_t>(i)];
        CHECK(std::fabs(grad[i] / 2 - slope) <= 2e-6);
        const double value = values[static_cast<std::size_t>(i)];
        CHECK(std::fabs(z[i] - value) <= 1e-6 * std::max(1.0, std::fabs(value)));
      }
    }
  }
}
