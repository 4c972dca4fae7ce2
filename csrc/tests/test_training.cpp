// The training kernels against plain loops in double, through the tables.
#include <deque>

#include "../core/grouped_mlp.h"
#include "../core/grouped_pointwise_conv.h"
#include "../core/training.h"
#include "support.h"
#include "third_party/doctest.h"

using namespace squeezebert;
using namespace squeezebert::test;

namespace {

constexpr uint64_t kSeed = 0x0123456789abcdefull;

// Philox 4x32-10, one counter at a time.
struct Philox {
  uint32_t numbers[4];
  Philox(uint64_t seed, uint32_t c0, uint32_t c1, uint32_t c2, uint32_t c3) : numbers{c0, c1, c2, c3} {
    auto key0 = static_cast<uint32_t>(seed), key1 = static_cast<uint32_t>(seed >> 32);
    for (int round = 0; round < 10; ++round) {
      const uint64_t a = 0xD2511F53ull * numbers[0], b = 0xCD9E8D57ull * numbers[2];
      const uint32_t next[4] = {static_cast<uint32_t>(b >> 32) ^ numbers[1] ^ key0, static_cast<uint32_t>(b),
                                static_cast<uint32_t>(a >> 32) ^ numbers[3] ^ key1, static_cast<uint32_t>(a)};
      std::copy(next, next + 4, numbers);
      key0 += 0x9E3779B9u;
      key1 += 0xBB67AE85u;
    }
  }
};

double keep_factor(const Dropout& dropout, int64_t row, int64_t column) {
  if (dropout.threshold == 0) return 1;
  const Philox made(dropout.seed, static_cast<uint32_t>(column / 4), static_cast<uint32_t>(row),
                    static_cast<uint32_t>(row >> 32), 0);
  return made.numbers[column % 4] < dropout.threshold ? 0 : static_cast<double>(dropout.scale);
}

// Within twice the error of the same loop in float32, and a few ulp of what sums of `terms` numbers up to 1 grow to. Of
// the errors the root mean square, since the largest of a short sum is luck, in either loop; but that is not far off
// either.
template <typename Actual>
void check_errors(const std::vector<double>& exact, const std::vector<float>& plain, const Actual& ours,
                  int64_t terms = 1) {
  const auto count = static_cast<int64_t>(exact.size());
  const Errors errors = errors_of(exact, ours, count), allowed = errors_of(exact, plain, count);
  const double floor = std::max(few_ulp(exact), few_ulp(std::vector<double>{std::sqrt(static_cast<double>(terms))}));
  CHECK(errors.root_mean_square <= 2 * allowed.root_mean_square + floor);
  CHECK(errors.largest <= 4 * allowed.largest + floor);
}

struct Guarded : GuardedFloats {
  Guarded(int64_t count, uint32_t seed, Edge edge) : GuardedFloats(count, edge) { fill_random(data(), count, seed); }
};

}  // namespace

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

// ---- products

namespace {

struct GradientShape {
  int64_t rows, out, in;
  bool accumulate, bias;
  int64_t padding;  // columns between the end of a row and the next
};

template <typename Real>
void plain_weight_gradient(const GradientShape& s, const float* grad, const float* x, std::vector<Real>& y,
                           std::vector<Real>& bias) {
  for (int64_t o = 0; o < s.out; ++o) {
    for (int64_t r = 0; r < s.rows; ++r) bias[static_cast<std::size_t>(o)] += grad[r * (s.out + s.padding) + o];
    for (int64_t i = 0; i < s.in; ++i) {
      Real sum = 0;
      for (int64_t r = 0; r < s.rows; ++r) {
        sum += static_cast<Real>(grad[r * (s.out + s.padding) + o]) * static_cast<Real>(x[r * (s.in + s.padding) + i]);
      }
      y[static_cast<std::size_t>(o * s.in + i)] += sum;
    }
  }
}

}  // namespace

TEST_CASE("the gradient of weights and bias is that of a plain loop, and touches its own memory alone") {
  std::vector<GradientShape> shapes;
  int n = 0;
  for (int64_t rows : {0, 1, 3, 15, 16, 17, 255, 256, 257, 600}) {
    for (int64_t out : {1, 5, 33}) {
      for (int64_t in : {1, 7, 48, 50, 100}) {
        shapes.push_back({rows, out, in, n % 2 == 0, n % 3 != 0, n % 4});
        ++n;
      }
    }
  }
  for (const GradientShape& s : sampled(shapes)) {
    for (Edge edge : {Edge::begin, Edge::end}) {
      const auto seed = static_cast<uint32_t>(s.rows * 100 + s.out * 10 + s.in);
      const int64_t last = s.rows > 0 ? s.padding : 0;
      const Guarded grad(s.rows * (s.out + s.padding) - last, seed, edge);
      const Guarded x(s.rows * (s.in + s.padding) - last, seed + 1, edge);
      const std::vector<float> before = random_floats(s.out * s.in, seed + 2), bias_before = random_floats(s.out, seed);
      std::vector<double> exact(before.size()), exact_bias(bias_before.size());
      std::vector<float> plain(before.size()), plain_bias(bias_before.size());
      if (s.accumulate) {
        exact.assign(before.begin(), before.end());
        exact_bias.assign(bias_before.begin(), bias_before.end());
        plain = before;
        plain_bias = bias_before;
      }
      plain_weight_gradient(s, grad.data(), x.data(), exact, exact_bias);
      plain_weight_gradient(s, grad.data(), x.data(), plain, plain_bias);
      for (const KernelTable* kernels : tested_builds()) {
        CAPTURE(name_of(*kernels));
        CAPTURE(s.rows);
        CAPTURE(s.out);
        CAPTURE(s.in);
        const GuardedFloats y(s.out * s.in, edge), bias(s.out, edge);
        if (s.accumulate) {
          std::copy(before.begin(), before.end(), y.data());
          std::copy(bias_before.begin(), bias_before.end(), bias.data());
        }
        const GuardedBytes scratch(kernels->training.weight_gradient_scratch(s.out, s.in), Edge::end);
        kernels->training.weight_gradient({grad.data(), s.out + s.padding, x.data(), s.in + s.padding, s.rows, s.out,
                                           s.in, s.accumulate, y.data(), s.in, s.bias ? bias.data() : nullptr},
                                          scratch.data());
        check_errors(exact, plain, y, s.rows);
        if (s.bias) check_errors(exact_bias, plain_bias, bias, s.rows);
      }
    }
  }
}

TEST_CASE("gradients of several weights at once have the bits of each alone, on any number of threads") {
  const int64_t rows = 300, groups = 2, in = 50, out = 400;  // more than a piece
  const std::vector<float> x = random_floats(rows * groups * in, 1);
  std::vector<std::vector<float>> grads;
  for (uint32_t i = 0; i < 3; ++i) grads.push_back(random_floats(rows * groups * out, 2 + i));
  for (const KernelTable* kernels : tested_builds()) {
    CAPTURE(name_of(*kernels));
    const auto run = [&](std::size_t first, std::size_t count, int threads) {
      std::deque<GuardedFloats> weights, biases;
      GroupedGradients g{{}, x.data(), rows, groups, groups * in, groups * out};
      for (std::size_t i = 0; i < count; ++i) {
        weights.emplace_back(groups * out * in, Edge::end);
        biases.emplace_back(groups * out, Edge::end);
        g.all.push_back({grads[first + i].data(), weights[i].data(), first + i == 1 ? nullptr : biases[i].data()});
      }
      weight_gradient(*kernels, g, threads);
      return std::pair{std::move(weights), std::move(biases)};
    };
    for (int threads : {1, 3}) {
      const auto together = run(0, 3, threads);
      for (std::size_t i = 0; i < 3; ++i) {
        const auto alone = run(i, 1, 1);
        CHECK(same_bits(together.first[i].data(), alone.first[0].data(), groups * out * in));
        if (i != 1) CHECK(same_bits(together.second[i].data(), alone.second[0].data(), groups * out));
      }
    }
  }
}

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

namespace {

struct MlpShape {
  int64_t rows, groups, in, hidden, out;  // channels of a group
  Activation activation;
};

template <typename Real>
struct MlpResults {
  std::vector<Real> x, weight_in, bias_in, weight_out, bias_out;
};

template <typename Real>
MlpResults<Real> plain_mlp_backward(const MlpShape& s, const float* x, const float* grad, const float* weight_in,
                                    const float* bias_in, const float* weight_out) {
  const auto sized = [](int64_t size) { return std::vector<Real>(static_cast<std::size_t>(size)); };
  MlpResults<Real> r{sized(s.rows * s.groups * s.in), sized(s.groups * s.hidden * s.in), sized(s.groups * s.hidden),
                     sized(s.groups * s.out * s.hidden), sized(s.groups * s.out)};
  const auto slope = [&](double z) {
    const double step = 1e-6 * std::max(1.0, std::fabs(z));
    if (s.activation == Activation::relu) return z > 0 ? 1.0 : 0.0;
    return (activate(s.activation, z + step) - activate(s.activation, z - step)) / (2 * step);
  };
  for (int64_t row = 0; row < s.rows; ++row) {
    for (int64_t g = 0; g < s.groups; ++g) {
      const float *from = x + (row * s.groups + g) * s.in, *of = grad + (row * s.groups + g) * s.out;
      for (int64_t o = 0; o < s.out; ++o) r.bias_out[static_cast<std::size_t>(g * s.out + o)] += of[o];
      for (int64_t h = 0; h < s.hidden; ++h) {
        const int64_t channel = g * s.hidden + h;
        Real z = bias_in ? bias_in[channel] : 0, dz = 0;
        for (int64_t i = 0; i < s.in; ++i) z += static_cast<Real>(from[i]) * weight_in[channel * s.in + i];
        const Real a = activate(s.activation, z);
        for (int64_t o = 0; o < s.out; ++o) {
          const int64_t at = (g * s.out + o) * s.hidden + h;
          dz += static_cast<Real>(of[o]) * weight_out[at];
          r.weight_out[static_cast<std::size_t>(at)] += static_cast<Real>(of[o]) * a;
        }
        dz *= static_cast<Real>(slope(static_cast<double>(z)));
        r.bias_in[static_cast<std::size_t>(channel)] += dz;
        for (int64_t i = 0; i < s.in; ++i) {
          r.weight_in[static_cast<std::size_t>(channel * s.in + i)] += dz * static_cast<Real>(from[i]);
          r.x[static_cast<std::size_t>((row * s.groups + g) * s.in + i)] += dz * weight_in[channel * s.in + i];
        }
      }
    }
  }
  return r;
}

}  // namespace

TEST_CASE("the gradients of a feed-forward block are those of plain loops, however it is cut into tasks") {
  const std::vector<MlpShape> shapes = {
      {0, 2, 3, 5, 4, Activation::gelu},       {1, 1, 1, 1, 1, Activation::silu},
      {5, 3, 7, 33, 9, Activation::gelu},      {97, 1, 50, 400, 50, Activation::gelu_tanh},
      {200, 4, 48, 192, 48, Activation::gelu}, {193, 2, 20, 390, 17, Activation::relu},
      {3, 1, 200, 10, 210, Activation::none},
  };
  for (const MlpShape& s : sampled(shapes)) {
    for (Edge edge : {Edge::begin, Edge::end}) {
      const Guarded x(s.rows * s.groups * s.in, 1, edge), grad(s.rows * s.groups * s.out, 2, edge);
      const Guarded weight_in(s.groups * s.hidden * s.in, 3, edge), bias_in(s.groups * s.hidden, 4, edge);
      const Guarded weight_out(s.groups * s.out * s.hidden, 5, edge);
      const float* bias = s.rows % 2 ? bias_in.data() : nullptr;
      const auto exact =
          plain_mlp_backward<double>(s, x.data(), grad.data(), weight_in.data(), bias, weight_out.data());
      const auto plain = plain_mlp_backward<float>(s, x.data(), grad.data(), weight_in.data(), bias, weight_out.data());
      for (const KernelTable* kernels : tested_builds()) {
        for (int threads : {1, 3}) {
          CAPTURE(name_of(*kernels));
          CAPTURE(s.rows);
          CAPTURE(s.hidden);
          CAPTURE(threads);
          const GuardedFloats of_x(x.size(), edge), of_in(weight_in.size(), edge), of_bias_in(bias_in.size(), edge);
          const GuardedFloats of_out(weight_out.size(), edge), of_bias_out(s.groups * s.out, edge);
          GroupedMlpBackward block{};
          block.in = {weight_in.data(), nullptr, nullptr, bias, s.groups, s.groups * s.in, s.groups * s.hidden};
          block.out = {weight_out.data(), nullptr, nullptr, nullptr, s.groups, s.groups * s.hidden, s.groups * s.out};
          block.activation = s.activation;
          block.rows = s.rows;
          block.x = x.data();
          block.grad = grad.data();
          block.grad_x = of_x.data();
          block.grad_weight_in = of_in.data();
          block.grad_bias_in = of_bias_in.data();
          block.grad_weight_out = of_out.data();
          block.grad_bias_out = of_bias_out.data();
          grouped_mlp_backward(*kernels, block, threads);
          const int64_t terms = std::max(s.rows, s.hidden);
          check_errors(exact.x, plain.x, of_x, terms);
          check_errors(exact.weight_in, plain.weight_in, of_in, terms);
          check_errors(exact.bias_in, plain.bias_in, of_bias_in, terms);
          check_errors(exact.weight_out, plain.weight_out, of_out, terms);
          check_errors(exact.bias_out, plain.bias_out, of_bias_out, terms);
          // x's alone
          const GuardedFloats alone(x.size(), edge);
          block.grad_x = alone.data();
          block.grad_weight_in = block.grad_bias_in = block.grad_weight_out = block.grad_bias_out = nullptr;
          grouped_mlp_backward(*kernels, block, threads);
          CHECK(same_bits(alone.data(), of_x.data(), x.size()));
        }
      }
    }
  }
}

// ---- LayerNorm

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
      const Dropout dropout = dropout_of(shape.dropout, kSeed);
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

// ---- attention

namespace {

struct AttentionShape {
  int64_t batch, queries, keys, heads, head_size;
  bool mask;
  double dropout;
};

template <typename Real>
struct AttentionResults {
  std::vector<Real> context, q, k, v;
};

struct AttentionNumbers {
  AttentionNumbers(const AttentionShape& s, Edge edge)
      : shape(s),
        q(s.batch * s.queries * s.heads * s.head_size, 1, edge),
        k(s.batch * s.keys * s.heads * s.head_size, 2, edge),
        v(s.batch * s.keys * s.heads * s.head_size, 3, edge),
        grad(s.batch * s.queries * s.heads * s.head_size, 4, edge),
        mask(s.batch * s.keys, 5, edge) {
    for (int64_t i = 0; i < s.batch * s.keys; i += 3) mask[i] = std::numeric_limits<float>::lowest();
    for (int64_t i = 0; i < s.keys; ++i) mask[i] = std::numeric_limits<float>::lowest();  // a whole sequence
  }

  // Every row to that of the first token and a fraction of its own.
  void make_alike(float fraction) const {
    const int64_t channels = shape.heads * shape.head_size;
    for (const Guarded* rows : {&q, &k, &v, &grad}) {
      for (int64_t i = rows->size() - 1; i >= 0; --i) (*rows)[i] = (*rows)[i % channels] + fraction * (*rows)[i];
    }
  }

  template <typename Real>
  AttentionResults<Real> plain(const Dropout& dropout) const {
    const int64_t channels = shape.heads * shape.head_size, queries = shape.queries, keys = shape.keys;
    const auto by_query = static_cast<std::size_t>(shape.batch * queries * channels);
    const auto by_key = static_cast<std::size_t>(shape.batch * keys * channels);
    AttentionResults<Real> r{std::vector<Real>(by_query), std::vector<Real>(by_query), std::vector<Real>(by_key),
                             std::vector<Real>(by_key)};
    const Real scale = 1 / std::sqrt(static_cast<Real>(shape.head_size));
    std::vector<Real> p(static_cast<std::size_t>(keys)), keep(p), slope(p);
    for (int64_t task = 0; task < shape.batch * shape.heads; ++task) {
      const int64_t sequence = task / shape.heads, channel = task % shape.heads * shape.head_size;
      for (int64_t i = 0; i < queries; ++i) {
        const int64_t row = (sequence * queries + i) * channels + channel;
        const auto key_row = [&](std::size_t j) {
          return (sequence * keys + static_cast<int64_t>(j)) * channels + channel;
        };
        Real largest = -std::numeric_limits<Real>::infinity(), sum = 0, mean = 0;
        for (std::size_t j = 0; j < p.size(); ++j) {
          p[j] = 0;
          for (int64_t c = 0; c < shape.head_size; ++c) {
            p[j] += static_cast<Real>(q[row + c]) * static_cast<Real>(k[key_row(j) + c]);
          }
          p[j] *= scale;
          const float added = shape.mask ? mask[sequence * keys + static_cast<int64_t>(j)] : 0;
          // what float32 makes of the sum
          p[j] = added < -1e30f ? static_cast<Real>(added) : p[j] + static_cast<Real>(added);
          largest = std::max(largest, p[j]);
        }
        for (Real& v_j : p) sum += v_j = std::exp(v_j - largest);
        for (std::size_t j = 0; j < p.size(); ++j) {
          p[j] /= sum;
          keep[j] = static_cast<Real>(keep_factor(dropout, task * queries + i, static_cast<int64_t>(j)));
          slope[j] = 0;
          for (int64_t c = 0; c < shape.head_size; ++c) {
            const auto at = static_cast<std::size_t>(row + c);
            r.context[at] += p[j] * keep[j] * static_cast<Real>(v[key_row(j) + c]);
            slope[j] += static_cast<Real>(grad[row + c]) * static_cast<Real>(v[key_row(j) + c]) * keep[j];
            r.v[static_cast<std::size_t>(key_row(j) + c)] += p[j] * keep[j] * static_cast<Real>(grad[row + c]);
          }
          mean += p[j] * slope[j];
        }
        for (std::size_t j = 0; j < p.size(); ++j) {
          const Real ds = p[j] * (slope[j] - mean) * scale;
          for (int64_t c = 0; c < shape.head_size; ++c) {
            r.q[static_cast<std::size_t>(row + c)] += ds * static_cast<Real>(k[key_row(j) + c]);
            r.k[static_cast<std::size_t>(key_row(j) + c)] += ds * static_cast<Real>(q[row + c]);
          }
        }
      }
    }
    return r;
  }

  AttentionTensors tensors(const Dropout& dropout, float* statistics) const {
    return {shape.batch,        shape.queries,   shape.keys,
            shape.heads,        shape.head_size, q.data(),
            k.data(),           v.data(),        shape.mask ? mask.data() : nullptr,
            {shape.keys, 0, 0}, dropout,         statistics};
  }

  AttentionShape shape;
  Guarded q, k, v, grad, mask;
};

}  // namespace

TEST_CASE("attention with dropout, and its gradients, are those of a plain loop, on any number of threads") {
  const std::vector<AttentionShape> shapes = {
      {1, 1, 1, 1, 3, false, 0},      {2, 5, 7, 3, 8, true, 0.3},       {1, 49, 49, 2, 64, true, 0},
      {1, 50, 30, 1, 17, false, 0.5}, {1, 7, 600, 2, 33, true, 0.1},    {2, 100, 3, 1, 1, false, 1},
      {1, 3, 529, 1, 20, false, 0.2}, {1, 128, 128, 1, 64, false, 0.1},
  };
  for (const AttentionShape& shape : sampled(shapes)) {
    for (Edge edge : {Edge::begin, Edge::end}) {
      const AttentionNumbers numbers(shape, edge);
      const Dropout dropout = dropout_of(shape.dropout, kSeed);
      const AttentionResults<double> exact = numbers.plain<double>(dropout);
      const AttentionResults<float> plain = numbers.plain<float>(dropout);
      for (const KernelTable* kernels : tested_builds()) {
        CAPTURE(name_of(*kernels));
        CAPTURE(shape.queries);
        CAPTURE(shape.keys);
        CAPTURE(shape.head_size);
        const GuardedFloats statistics(shape.batch * shape.heads * shape.queries * 2, edge);
        const AttentionTensors tensors = numbers.tensors(dropout, statistics.data());
        const GuardedFloats context(numbers.q.size(), edge), alone(numbers.q.size(), edge);
        attention_forward(*kernels, tensors, alone.data(), 1);
        attention_forward(*kernels, tensors, context.data(), 3);
        CHECK(same_bits(context.data(), alone.data(), context.size()));
        check_errors(exact.context, plain.context, context);
        const GuardedFloats q(numbers.q.size(), edge), k(numbers.k.size(), edge), v(numbers.v.size(), edge);
        attention_backward(*kernels, tensors, {numbers.grad.data(), q.data(), k.data(), v.data()}, 3);
        const GuardedFloats q_alone(q.size(), edge), k_alone(k.size(), edge), v_alone(v.size(), edge);
        attention_backward(*kernels, tensors, {numbers.grad.data(), q_alone.data(), k_alone.data(), v_alone.data()}, 1);
        CHECK(same_bits(q.data(), q_alone.data(), q.size()));
        CHECK(same_bits(k.data(), k_alone.data(), k.size()));
        CHECK(same_bits(v.data(), v_alone.data(), v.size()));
        check_errors(exact.q, plain.q, q);
        check_errors(exact.k, plain.k, k);
        check_errors(exact.v, plain.v, v);
      }
    }
  }
}

// Where tokens are alike, a query's gradient is what is left of large terms that cancel.
TEST_CASE("the gradients of attention among tokens that are alike are those of a plain loop") {
  const std::vector<AttentionShape> shapes = {
      {1, 49, 49, 1, 64, false, 0},
      {2, 37, 40, 2, 64, true, 0},
      {1, 50, 130, 1, 33, false, 0.2},
      {1, 20, 600, 1, 64, true, 0.1},
  };
  for (const AttentionShape& shape : sampled(shapes)) {
    const AttentionNumbers numbers(shape, Edge::end);
    numbers.make_alike(0.05f);
    const Dropout dropout = dropout_of(shape.dropout, kSeed);
    const AttentionResults<double> exact = numbers.plain<double>(dropout);
    const AttentionResults<float> plain = numbers.plain<float>(dropout);
    for (const KernelTable* kernels : tested_builds()) {
      CAPTURE(name_of(*kernels));
      CAPTURE(shape.keys);
      const GuardedFloats statistics(shape.batch * shape.heads * shape.queries * 2), context(numbers.q.size());
      const AttentionTensors tensors = numbers.tensors(dropout, statistics.data());
      attention_forward(*kernels, tensors, context.data(), 1);
      const GuardedFloats q(numbers.q.size()), k(numbers.k.size()), v(numbers.v.size());
      attention_backward(*kernels, tensors, {numbers.grad.data(), q.data(), k.data(), v.data()}, 1);
      const auto check = [](const std::vector<double>& exact, const std::vector<float>& plain,
                            const GuardedFloats& ours) {
        const double allowed = errors_of(exact, plain, ours.size()).root_mean_square;
        CHECK(errors_of(exact, ours, ours.size()).root_mean_square <= 2 * allowed + few_ulp(exact));
      };
      check(exact.q, plain.q, q);
      check(exact.k, plain.k, k);
      check(exact.v, plain.v, v);
    }
  }
}

// Some 1e-38 instead would do harm twice: times a large value, and by products so small that the CPU slows down.
TEST_CASE("a masked key has no weight, whatever its value") {
  const AttentionShape shape{2, 5, 40, 2, 16, true, 0};
  for (const KernelTable* kernels : tested_builds()) {
    CAPTURE(name_of(*kernels));
    const AttentionNumbers zero(shape, Edge::end), huge(shape, Edge::end);
    const GuardedFloats statistics(shape.batch * shape.heads * shape.queries * 2), of_zero(zero.q.size()),
        of_huge(zero.q.size());
    const GuardedFloats* contexts[] = {&of_zero, &of_huge};

    std::vector<float> gradients[2];
    for (int which = 0; which < 2; ++which) {
      const AttentionNumbers& numbers = which == 0 ? zero : huge;
      for (int64_t row = shape.keys; row < shape.batch * shape.keys; ++row) {  // the first sequence is masked whole
        if (numbers.mask[row] > -1e30f) continue;
        std::fill_n(numbers.v.data() + row * 32, 32, which == 0 ? 0.0f : 1e37f);
      }
      const AttentionTensors tensors = numbers.tensors(dropout_of(0, 1), statistics.data());
      attention_forward(*kernels, tensors, contexts[which]->data(), 1);
      const GuardedFloats q(numbers.q.size()), k(numbers.k.size()), v(numbers.v.size());
      attention_backward(*kernels, tensors, {numbers.grad.data(), q.data(), k.data(), v.data()}, 1);
      for (const GuardedFloats* each : {&q, &k, &v}) {
        for (int64_t i = 0; i < each->size(); ++i) {
          CHECK(!(std::fabs((*each)[i]) < 1e-37f && (*each)[i] != 0.0f));
          gradients[which].push_back((*each)[i]);
        }
      }
    }
    CHECK(same_bits(of_zero.data(), of_huge.data(), zero.q.size()));
    CHECK(gradients[0] == gradients[1]);
  }
}
