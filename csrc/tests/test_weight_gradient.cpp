// Gradients of weights against plain loops in double.
#include <deque>

#include "../core/weight_gradient.h"
#include "third_party/doctest.h"
#include "training_support.h"

using namespace squeezebert;
using namespace squeezebert::test;

namespace {

struct GradientShape {
  int64_t rows, out, in;
  bool accumulate, bias;
  int64_t padding;  // columns between the end of a row and the next
};

// The bias's gradient is of what grad was before it became operands.
template <typename Real>
void plain_weight_gradient(const GradientShape& s, const float* whole, const float* grad, const float* x,
                           std::vector<Real>& y, std::vector<Real>& bias) {
  for (int64_t o = 0; o < s.out; ++o) {
    for (int64_t r = 0; r < s.rows; ++r) bias[static_cast<std::size_t>(o)] += whole[r * (s.out + s.padding) + o];
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
      for (const GradientBuild& build : gradient_builds()) {
        CAPTURE(name_of(*build.table));
        CAPTURE(name_of(build.precision));
        CAPTURE(s.rows);
        CAPTURE(s.out);
        CAPTURE(s.in);
        const std::vector<float> grads = operands_of(grad, build.precision), xs = operands_of(x, build.precision);
        std::vector<double> exact(before.size()), exact_bias(bias_before.size());
        std::vector<float> plain(before.size()), plain_bias(bias_before.size());
        const GuardedFloats y(s.out * s.in, edge), bias(s.out, edge);
        if (s.accumulate) {
          exact.assign(before.begin(), before.end());
          exact_bias.assign(bias_before.begin(), bias_before.end());
          plain = before;
          plain_bias = bias_before;
          std::copy(before.begin(), before.end(), y.data());
          std::copy(bias_before.begin(), bias_before.end(), bias.data());
        }
        plain_weight_gradient(s, grad.data(), grads.data(), xs.data(), exact, exact_bias);
        plain_weight_gradient(s, grad.data(), grads.data(), xs.data(), plain, plain_bias);
        const GuardedBytes scratch(build.kernels().weight_gradient_scratch(s.out, s.in), Edge::end);
        build.kernels().weight_gradient({grad.data(), s.out + s.padding, x.data(), s.in + s.padding, s.rows, s.out,
                                         s.in, s.accumulate, y.data(), s.in, s.bias ? bias.data() : nullptr},
                                        scratch.data());
        check_errors(exact, plain, y, s.rows, build.precision);
        if (s.bias) check_errors(exact_bias, plain_bias, bias, s.rows);
      }
    }
  }
}

TEST_CASE("a NaN or infinity in grad or x reaches its own row or column of the gradient alone") {
  const float nan = std::numeric_limits<float>::quiet_NaN(), infinity = std::numeric_limits<float>::infinity();
  for (int64_t rows : {1, 33, 257}) {
    const int64_t out = 37, in = 50, row = rows - 1, channel = 18;
    for (float poison : {nan, infinity}) {
      for (bool of_grad : {true, false}) {
        const GuardedFloats grad(rows * out), x(rows * in);
        fill_random(grad.data(), grad.size(), 1);
        fill_random(x.data(), x.size(), 2);
        (of_grad ? grad[row * out + channel] : x[row * in + channel]) = poison;
        for (const GradientBuild& build : gradient_builds()) {
          CAPTURE(name_of(*build.table));
          CAPTURE(name_of(build.precision));
          CAPTURE(rows);
          CAPTURE(of_grad);
          const GuardedFloats y(out * in), bias(out);
          const GuardedBytes scratch(build.kernels().weight_gradient_scratch(out, in), Edge::end);
          std::memset(scratch.data(), 0xff, static_cast<std::size_t>(build.kernels().weight_gradient_scratch(out, in)));
          build.kernels().weight_gradient(
              {grad.data(), out, x.data(), in, rows, out, in, false, y.data(), in, bias.data()}, scratch.data());
          for (int64_t o = 0; o < out; ++o) {
            CHECK(std::isfinite(bias[o]) == !(of_grad && o == channel));
            for (int64_t i = 0; i < in; ++i) CHECK(std::isfinite(y[o * in + i]) == ((of_grad ? o : i) != channel));
          }
        }
      }
    }
  }
}

TEST_CASE("gradients of several weights at once have the bits of each alone, on any number of threads") {
  const int64_t rows = 300, groups = 2, in = 50, out = 400;  // more than a piece
  const std::vector<float> x = random_floats(rows * groups * in, 1);
  std::vector<std::vector<float>> grads;
  for (uint32_t i = 0; i < 3; ++i) grads.push_back(random_floats(rows * groups * out, 2 + i));
  for (const GradientBuild& build : gradient_builds()) {
    CAPTURE(name_of(*build.table));
    CAPTURE(name_of(build.precision));
    const auto run = [&](std::size_t first, std::size_t count, int threads) {
      std::deque<GuardedFloats> weights, biases;
      GroupedGradients g{{}, x.data(), rows, groups, groups * in, groups * out};
      for (std::size_t i = 0; i < count; ++i) {
        weights.emplace_back(groups * out * in, Edge::end);
        biases.emplace_back(groups * out, Edge::end);
        g.all.push_back({grads[first + i].data(), weights[i].data(), first + i == 1 ? nullptr : biases[i].data()});
      }
      weight_gradient(*build.table, build.precision, g, threads);
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
