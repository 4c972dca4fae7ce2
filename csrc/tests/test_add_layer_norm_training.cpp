// LayerNorm in training against plain loops in double.
#include "../core/add_layer_norm.h"
#include "third_party/doctest.h"
#include "training_support.h"

using namespace squeezebert;
using namespace squeezebert::test;

namespace {

struct NormShape {
  int64_t rows, channels;
  double dropout;
};

template <typename Real>
struct NormResults {
  std::vector<Real> y, x, weight, bias, residual;
};

struct NormNumbers {
  NormNumbers(const NormShape& s, Edge edge)
      : shape(s),
        x(s.rows * s.channels, 1, edge),
        residual(s.rows * s.channels, 2, edge),
        weight(s.channels, 3, edge),
        bias(s.channels, 4, edge),
        grad(s.rows * s.channels, 5, edge) {}

  template <typename Real>
  NormResults<Real> plain(const Dropout& dropout, float eps) const {
    const auto size = static_cast<std::size_t>(shape.rows * shape.channels);
    const auto channels = static_cast<std::size_t>(shape.channels);
    const auto count = static_cast<Real>(shape.channels);
    NormResults<Real> results{std::vector<Real>(size), std::vector<Real>(size), std::vector<Real>(channels),
                              std::vector<Real>(channels), std::vector<Real>(size)};
    std::vector<Real> n(channels), g(channels);
    for (int64_t r = 0; r < shape.rows; ++r) {
      Real mean = 0, variance = 0, sum = 0, product = 0;
      const auto at = [&](std::size_t c) { return r * shape.channels + static_cast<int64_t>(c); };
      for (std::size_t c = 0; c < channels; ++c) {
        n[c] = static_cast<Real>(x[at(c)]) * static_cast<Real>(keep_factor(dropout, r, static_cast<int64_t>(c))) +
               static_cast<Real>(residual[at(c)]);
        mean += n[c] / count;
      }
      for (std::size_t c = 0; c < channels; ++c) variance += (n[c] - mean) * (n[c] - mean) / count;
      const Real reciprocal = 1 / std::sqrt(variance + static_cast<Real>(eps));
      for (std::size_t c = 0; c < channels; ++c) {
        const auto i = static_cast<int64_t>(c);
        n[c] = (n[c] - mean) * reciprocal;
        g[c] = static_cast<Real>(grad[at(c)]) * static_cast<Real>(weight[i]);
        results.y[static_cast<std::size_t>(at(c))] = n[c] * static_cast<Real>(weight[i]) + static_cast<Real>(bias[i]);
        results.weight[c] += static_cast<Real>(grad[at(c)]) * n[c];
        results.bias[c] += static_cast<Real>(grad[at(c)]);
        sum += g[c] / count;
        product += g[c] * n[c] / count;
      }
      for (std::size_t c = 0; c < channels; ++c) {
        const Real total = (g[c] - sum - n[c] * product) * reciprocal;
        results.residual[static_cast<std::size_t>(at(c))] = total;
        results.x[static_cast<std::size_t>(at(c))] =
            total * static_cast<Real>(keep_factor(dropout, r, static_cast<int64_t>(c)));
      }
    }
    return results;
  }

  NormShape shape;
  Guarded x, residual, weight, bias, grad;
};

}  // namespace

TEST_CASE("LayerNorm after dropout and residual, and its gradients, are those of a plain loop") {
  std::vector<NormShape> shapes;
  int n = 0;
  for (int64_t channels : {2, 3, 5, 16, 17, 63, 64, 65, 100, 768}) {
    for (int64_t rows : {1, 2, 33, 70}) shapes.push_back({rows, channels, n++ % 3 * 0.4});
  }
  const float eps = 1e-3f;  // rows of two or three may have hardly any variance, which magnifies every rounding
  for (const NormShape& shape : sampled(shapes)) {
    for (Edge edge : {Edge::begin, Edge::end}) {
      const NormNumbers numbers(shape, edge);
      const Dropout dropout = dropout_of(shape.dropout, kDropoutSeed);
      const NormResults<double> exact = numbers.plain<double>(dropout, eps);
      const NormResults<float> plain = numbers.plain<float>(dropout, eps);
      for (const KernelTable* kernels : tested_builds()) {
        CAPTURE(name_of(*kernels));
        CAPTURE(shape.rows);
        CAPTURE(shape.channels);
        CAPTURE(shape.dropout);
        const int64_t size = shape.rows * shape.channels;
        const GuardedFloats total(size, edge), y(size, edge), mean(shape.rows, edge), reciprocal(shape.rows, edge);
        add_layer_norm_forward(
            *kernels,
            {numbers.weight.data(), numbers.bias.data(), eps, shape.channels, numbers.x.data(), numbers.residual.data(),
             total.data(), y.data(), mean.data(), reciprocal.data(), dropout},
            shape.rows, 2);
        check_errors(exact.y, plain.y, y);
        const GuardedFloats x(size, edge), residual(size, edge), weight(shape.channels, edge),
            bias(shape.channels, edge);
        AddLayerNormBackward backward{numbers.weight.data(),
                                      shape.channels,
                                      numbers.grad.data(),
                                      total.data(),
                                      mean.data(),
                                      reciprocal.data(),
                                      x.data(),
                                      residual.data(),
                                      weight.data(),
                                      bias.data(),
                                      dropout};
        add_layer_norm_backward(*kernels, backward, shape.rows, 2);
        check_errors(exact.x, plain.x, x);
        check_errors(exact.residual, plain.residual, residual);
        check_errors(exact.weight, plain.weight, weight);
        check_errors(exact.bias, plain.bias, bias);
        // each alone
        const GuardedFloats x_alone(size, edge);
        backward.grad_x = x_alone.data();
        backward.grad_residual = backward.grad_weight = backward.grad_bias = nullptr;
        add_layer_norm_backward(*kernels, backward, shape.rows, 1);
        CHECK(same_bits(x.data(), x_alone.data(), size));
      }
    }
  }
}
