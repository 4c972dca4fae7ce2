// The gradients of a feed-forward block against plain loops in double.
#include <map>

#include "../core/grouped_mlp.h"
#include "third_party/doctest.h"
#include "training_support.h"

using namespace squeezebert;
using namespace squeezebert::test;

namespace {

struct MlpShape {
  int64_t rows, groups, in, hidden, out;  // channels of a group
  Activation activation;
};

template <typename Real>
struct MlpResults {
  std::vector<Real> x, weight_in, bias_in, weight_out, bias_out;
};

// In bfloat16 and by one part, x, grad and weights are rounded already, `whole` is grad before that. The hidden rows
// and their gradients are rounded where they are operands, but not in double, whose error would hide ours.
template <typename Real>
MlpResults<Real> plain_mlp_backward(const MlpShape& s, Precision precision, const float* whole, const float* x,
                                    const float* grad, const float* weight_in, const float* bias_in,
                                    const float* weight_out) {
  const auto operand = [&](Real v) {
    if constexpr (std::is_same_v<Real, float>) return rounds_operands(precision) ? rounded_to_bfloat16(v) : v;
    return v;
  };
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
      for (int64_t o = 0; o < s.out; ++o)
        r.bias_out[static_cast<std::size_t>(g * s.out + o)] += whole[(row * s.groups + g) * s.out + o];
      for (int64_t h = 0; h < s.hidden; ++h) {
        const int64_t channel = g * s.hidden + h;
        Real z = bias_in ? bias_in[channel] : 0, dz = 0;
        for (int64_t i = 0; i < s.in; ++i) z += static_cast<Real>(from[i]) * weight_in[channel * s.in + i];
        const Real a = operand(activate(s.activation, z));
        for (int64_t o = 0; o < s.out; ++o) {
          const int64_t at = (g * s.out + o) * s.hidden + h;
          dz += static_cast<Real>(of[o]) * weight_out[at];
          r.weight_out[static_cast<std::size_t>(at)] += static_cast<Real>(of[o]) * a;
        }
        dz *= static_cast<Real>(slope(static_cast<double>(z)));
        r.bias_in[static_cast<std::size_t>(channel)] += dz;
        dz = operand(dz);
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
      std::map<Precision, MlpResults<double>> exact_in;
      std::map<Precision, MlpResults<float>> plain_in;
      for (const GradientBuild& build : gradient_builds()) {
        const Precision precision = build.precision;
        if (exact_in.count(precision) == 0) {
          const auto of_x = operands_of(x, precision), of_grad = operands_of(grad, precision);
          const auto of_in = operands_of(weight_in, precision), of_out = operands_of(weight_out, precision);
          exact_in[precision] = plain_mlp_backward<double>(s, precision, grad.data(), of_x.data(), of_grad.data(),
                                                           of_in.data(), bias, of_out.data());
          plain_in[precision] = plain_mlp_backward<float>(s, precision, grad.data(), of_x.data(), of_grad.data(),
                                                          of_in.data(), bias, of_out.data());
        }
        const auto& exact = exact_in[precision];
        const auto& plain = plain_in[precision];
        for (int threads : {1, 3}) {
          CAPTURE(name_of(*build.table));
          CAPTURE(name_of(precision));
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
          grouped_mlp_backward(*build.table, precision, block, threads);
          const int64_t terms = std::max(s.rows, s.hidden);
          check_errors(exact.x, plain.x, of_x, terms, precision);
          check_errors(exact.weight_in, plain.weight_in, of_in, terms, precision);
          check_errors(exact.bias_in, plain.bias_in, of_bias_in, terms, precision);
          check_errors(exact.weight_out, plain.weight_out, of_out, terms, precision);
          check_errors(exact.bias_out, plain.bias_out, of_bias_out, terms, precision);
          // x's alone
          const GuardedFloats alone(x.size(), edge);
          block.grad_x = alone.data();
          block.grad_weight_in = block.grad_bias_in = block.grad_weight_out = block.grad_bias_out = nullptr;
          grouped_mlp_backward(*build.table, precision, block, threads);
          CHECK(same_bits(alone.data(), of_x.data(), x.size()));
        }
      }
    }
  }
}
