// Training's operations on bfloat16 tensors: the bits that they have on the same numbers in float32, rounded.
#include <deque>
#include <stdexcept>

#include "../core/add_layer_norm.h"
#include "../core/attention.h"
#include "../core/grouped_mlp.h"
#include "../core/grouped_pointwise_conv.h"
#include "../core/weight_gradient.h"
#include "third_party/doctest.h"
#include "training_support.h"

using namespace squeezebert;
using namespace squeezebert::test;

namespace {

float widened(uint16_t number) {
  const uint32_t bits = static_cast<uint32_t>(number) << 16;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

// A tensor of bfloat16 between pages that fault, all ones to begin with: a NaN.
struct Numbers {
  explicit Numbers(int64_t count, Edge edge = Edge::end)
      : bytes(count * 2, edge), data(reinterpret_cast<uint16_t*>(bytes.data())), size(count) {
    std::fill_n(data, size, uint16_t{0xffff});
  }
  Numbers(int64_t count, uint32_t seed, Edge edge = Edge::end) : Numbers(count, edge) {
    const std::vector<float> values = random_floats(count, seed);
    for (int64_t i = 0; i < count; ++i) {
      data[i] = static_cast<uint16_t>(bits_of(rounded_to_bfloat16(values[static_cast<std::size_t>(i)])) >> 16);
    }
  }
  std::vector<float> floats() const {
    std::vector<float> all;
    for (int64_t i = 0; i < size; ++i) all.push_back(widened(data[i]));
    return all;
  }

  GuardedBytes bytes;
  uint16_t* data;
  int64_t size;
};

// Both results of an operation, and whether one is the other rounded.
struct Result {
  explicit Result(int64_t count) : rounded(count), floats(count) {}
  void check() const {
    int64_t wrong = 0;
    for (int64_t i = 0; i < rounded.size; ++i) {
      wrong += bits_of(widened(rounded.data[i])) != bits_of(rounded_to_bfloat16(floats[i]));
    }
    CHECK(wrong == 0);
  }
  void* of(Element element) const {
    return element == Element::bfloat16 ? static_cast<void*>(rounded.data) : static_cast<void*>(floats.data());
  }

  Numbers rounded;
  GuardedFloats floats;
};

struct Argument {
  Argument(int64_t count, uint32_t seed, Edge edge = Edge::end)
      : rounded(count, seed, edge), floats(rounded.floats()) {}
  const void* of(Element element) const {
    return element == Element::bfloat16 ? static_cast<const void*>(rounded.data)
                                        : static_cast<const void*>(floats.data());
  }

  Numbers rounded;
  std::vector<float> floats;
};

constexpr Element kElements[] = {Element::float32, Element::bfloat16};

struct Shape {
  int64_t rows, groups, in, hidden;  // channels of a group; as many out as in
};
std::vector<Shape> shapes() {
  return sampled(
      std::vector<Shape>{{1, 1, 1, 1}, {5, 3, 7, 33}, {33, 4, 48, 192}, {130, 2, 50, 390}, {200, 1, 70, 17}});
}

}  // namespace

TEST_CASE("every bfloat16 is widened exactly, and every float32 rounded to the nearest, ties to even") {
  std::vector<float> values;
  for (uint32_t high = 0; high < 0x10000; high += 7) {
    for (uint32_t low : {0x0u, 0x1u, 0x7fffu, 0x8000u, 0x8001u, 0xffffu}) {
      const uint32_t bits = (high << 16) | low;
      float value;
      std::memcpy(&value, &bits, sizeof value);
      values.push_back(value);
    }
  }
  const auto count = static_cast<int64_t>(values.size());
  for (const KernelTable* table : tested_builds()) {
    CAPTURE(name_of(*table));
    const Numbers rounded(count);
    table->training.round(values.data(), 0, count, {0, 1}, rounded.data, 0);
    const GuardedFloats back(count);
    table->training.widen(rounded.data, 0, count, {0, 1}, back.data(), 0);
    int64_t wrong = 0;
    for (int64_t i = 0; i < count; ++i) {
      const float value = values[static_cast<std::size_t>(i)];
      const float expected = std::isnan(value) ? back[i] : rounded_to_bfloat16(value);
      wrong += bits_of(back[i]) != bits_of(widened(rounded.data[i]));
      wrong += std::isnan(value) ? !std::isnan(back[i]) : bits_of(back[i]) != bits_of(expected);
    }
    CHECK(wrong == 0);
  }
}

TEST_CASE("convolutions, alone, side by side and as a sum, on bfloat16 tensors") {
  for (const Shape& s : shapes()) {
    const int64_t in = s.groups * s.in, out = s.groups * s.hidden;
    const std::vector<float> bias = random_floats(out, 9);
    std::vector<std::vector<float>> weights;
    std::deque<Argument> xs;
    for (uint32_t i = 0; i < 3; ++i) {
      weights.push_back(random_floats(out * s.in, 10 + i));
      xs.emplace_back(s.rows * in, 20 + i, i % 2 ? Edge::begin : Edge::end);
    }
    for (const KernelTable* table : tested_builds()) {
      for (Precision precision : precisions_of(*table)) {
        if (precision == Precision::int8) continue;  // training has none
        CAPTURE(name_of(*table));
        CAPTURE(name_of(precision));
        CAPTURE(s.rows);
        std::vector<PackedGroupedPointwiseConv> packed;
        for (const std::vector<float>& weight : weights) {
          packed.emplace_back(*table, precision,
                              ConvWeights{weight.data(), nullptr, nullptr, nullptr, s.groups, in, out}, 2);
        }
        for (int threads : {1, 3}) {
          const Result alone(s.rows * out), sum(s.rows * out);
          std::deque<Result> beside;
          for (int i = 0; i < 3; ++i) beside.emplace_back(s.rows * out);
          for (Element element : kElements) {
            packed[0].run(xs[0].of(element), in, s.rows, bias.data(), alone.of(element), out, Activation::gelu, threads,
                          element);
            std::vector<PackedGroupedPointwiseConv::Term> side, summed;
            for (std::size_t i = 0; i < 3; ++i) {
              side.push_back({&packed[i], xs[0].of(element), i == 1 ? nullptr : bias.data(), beside[i].of(element)});
              summed.push_back({&packed[i], xs[i].of(element), nullptr, sum.of(element)});
            }
            PackedGroupedPointwiseConv::run_side_by_side(side, s.rows, threads, element);
            PackedGroupedPointwiseConv::run_sum(summed, s.rows, threads, element);
          }
          alone.check();
          sum.check();
          for (const Result& result : beside) result.check();
        }
      }
    }
  }
}

TEST_CASE("rows of bfloat16 may lie apart, or be one and the same") {
  const int64_t rows = 40, groups = 2, in = 2 * 45, out = 2 * 20;
  const std::vector<float> weight = random_floats(out * in / groups, 1);
  const ConvWeights conv{weight.data(), nullptr, nullptr, nullptr, groups, in, out};
  for (const KernelTable* table : tested_builds()) {
    for (Precision precision : precisions_of(*table)) {
      if (precision == Precision::int8) continue;
      const PackedGroupedPointwiseConv packed(*table, precision, conv, 2);
      for (int64_t stride : {int64_t{0}, in + 5}) {
        CAPTURE(name_of(*table));
        CAPTURE(name_of(precision));
        CAPTURE(stride);
        const Argument x((rows - 1) * stride + in, 2);
        const Result y(rows * out);
        for (Element element : kElements) {
          packed.run(x.of(element), stride, rows, nullptr, y.of(element), out, Activation::none, 2, element);
        }
        y.check();
      }
    }
  }
}

TEST_CASE("a feed-forward block and its gradients on bfloat16 tensors") {
  for (const Shape& s : shapes()) {
    const int64_t channels = s.groups * s.in, hidden = s.groups * s.hidden;
    const Argument x(s.rows * channels, 1), grad(s.rows * channels, 2, Edge::begin);
    const std::vector<float> weight_in = random_floats(hidden * s.in, 3), weight_out = random_floats(hidden * s.in, 4);
    const std::vector<float> bias_in = random_floats(hidden, 5), bias_out = random_floats(channels, 6);
    const ConvWeights in{weight_in.data(), nullptr, nullptr, nullptr, s.groups, channels, hidden};
    const ConvWeights out{weight_out.data(), nullptr, nullptr, nullptr, s.groups, hidden, channels};
    for (const KernelTable* table : tested_builds()) {
      for (Precision precision : precisions_of(*table)) {
        if (precision == Precision::int8) continue;
        for (int threads : {1, 3}) {
          CAPTURE(name_of(*table));
          CAPTURE(name_of(precision));
          CAPTURE(s.rows);
          CAPTURE(threads);
          const Result y(s.rows * channels);
          const PackedGroupedMlp packed(*table, precision, in, out, threads);
          for (Element element : kElements) {
            packed.run(x.of(element), s.rows, bias_in.data(), bias_out.data(), y.of(element), Activation::gelu, threads,
                       element);
          }
          y.check();
          if (!has_gradients(*table, precision)) continue;
          const Result of_x(s.rows * channels);
          std::deque<GuardedFloats> parameters;
          GroupedMlpBackward block{};
          block.in = in;
          block.in.bias = bias_in.data();
          block.out = out;
          block.activation = Activation::gelu;
          block.rows = s.rows;
          const auto run = [&](Element element) {
            block.element = element;
            block.x = x.of(element);
            block.grad = grad.of(element);
            block.grad_x = of_x.of(element);
            float** const written[] = {&block.grad_weight_in, &block.grad_bias_in, &block.grad_weight_out,
                                       &block.grad_bias_out};
            const int64_t sizes[] = {hidden * s.in, hidden, hidden * s.in, channels};
            for (std::size_t i = 0; i < 4; ++i) *written[i] = parameters.emplace_back(sizes[i]).data();
            grouped_mlp_backward(*table, precision, block, threads);
          };
          run(Element::float32);
          if (kernels_in(*table, precision).products > 0) {
            CHECK_THROWS_AS(run(Element::bfloat16), std::invalid_argument);
            continue;
          }
          run(Element::bfloat16);
          of_x.check();
          for (std::size_t i = 0; i < 4; ++i) {
            CHECK(same_bits(parameters[i].data(), parameters[4 + i].data(), parameters[i].size()));
          }
        }
      }
    }
  }
}

TEST_CASE("gradients of weights on bfloat16 tensors") {
  for (const Shape& s : shapes()) {
    const int64_t in = s.groups * s.in, out = s.groups * s.hidden;
    const Argument x(s.rows * in, 1), grad(s.rows * out, 2);
    for (const GradientBuild& build : gradient_builds()) {
      CAPTURE(name_of(*build.table));
      CAPTURE(name_of(build.precision));
      CAPTURE(s.rows);
      std::deque<GuardedFloats> weights, biases;
      const auto run = [&](Element element) {
        weights.emplace_back(out * s.in);
        biases.emplace_back(out);
        weight_gradient(*build.table, build.precision,
                        {{{grad.of(element), weights.back().data(), biases.back().data()}},
                         x.of(element),
                         s.rows,
                         s.groups,
                         in,
                         out,
                         element},
                        2);
      };
      run(Element::float32);
      if (build.kernels().products > 0) {
        CHECK_THROWS_AS(run(Element::bfloat16), std::invalid_argument);
        continue;
      }
      run(Element::bfloat16);
      CHECK(same_bits(weights[0].data(), weights[1].data(), weights[0].size()));
      CHECK(same_bits(biases[0].data(), biases[1].data(), biases[0].size()));
    }
  }
}

TEST_CASE("attention in float32 and its gradients on bfloat16 tensors") {
  const int64_t batch = 2, queries = 67, keys = 35, heads = 2;
  for (int64_t head_size : {5, 64}) {
    const int64_t channels = heads * head_size;
    const Argument q(batch * queries * channels, 1), k(batch * keys * channels, 2), v(batch * keys * channels, 3);
    const Argument grad(batch * queries * channels, 4);
    for (const KernelTable* table : tested_builds()) {
      for (double dropped : {0.0, 0.25}) {
        CAPTURE(name_of(*table));
        CAPTURE(head_size);
        CAPTURE(dropped);
        const Result context(q.rounded.size), of_q(q.rounded.size), of_k(k.rounded.size), of_v(v.rounded.size);
        std::deque<GuardedFloats> statistics;
        for (Element element : kElements) {
          statistics.emplace_back(batch * heads * queries * 2);
          const AttentionTensors tensors{batch,
                                         queries,
                                         keys,
                                         heads,
                                         head_size,
                                         q.of(element),
                                         k.of(element),
                                         v.of(element),
                                         nullptr,
                                         {},
                                         dropout_of(dropped, kDropoutSeed),
                                         statistics.back().data(),
                                         element};
          attention_forward(*table, Precision::float32, tensors, context.of(element), 2);
          attention_backward(*table, Precision::float32, tensors,
                             {grad.of(element), of_q.of(element), of_k.of(element), of_v.of(element)}, 2);
        }
        CHECK(same_bits(statistics[0].data(), statistics[1].data(), statistics[0].size()));
        for (const Result* result : {&context, &of_q, &of_k, &of_v}) result->check();
        if (has_gradients(*table, Precision::bfloat16)) {
          const AttentionTensors tensors{1,
                                         1,
                                         1,
                                         heads,
                                         head_size,
                                         q.of(Element::float32),
                                         k.of(Element::float32),
                                         v.of(Element::float32),
                                         nullptr,
                                         {},
                                         {},
                                         statistics[0].data()};
          CHECK_THROWS_AS(attention_forward(*table, Precision::bfloat16, tensors, context.of(Element::float32), 1),
                          std::invalid_argument);
        }
      }
    }
  }
}

TEST_CASE("dropout, residual and LayerNorm, and their gradients, on bfloat16 tensors") {
  for (int64_t channels : {1, 7, 50, 96}) {
    const int64_t rows = 37, size = rows * channels;
    const Argument x(size, 1), residual(size, 2, Edge::begin), grad(size, 3);
    const std::vector<float> weight = random_floats(channels, 4), bias = random_floats(channels, 5);
    for (const KernelTable* table : tested_builds()) {
      for (double dropped : {0.0, 0.25}) {
        CAPTURE(name_of(*table));
        CAPTURE(channels);
        CAPTURE(dropped);
        const Dropout dropout = dropout_of(dropped, kDropoutSeed);
        const Result total(size), y(size), of_x(size), of_residual(size), alone(size);
        std::deque<GuardedFloats> moments, of_weight;
        std::vector<float> kept;  // the sum before the norm as a backward in bfloat16 has it
        for (Element element : {Element::bfloat16, Element::float32}) {
          float* const mean = moments.emplace_back(2 * rows).data();
          add_layer_norm_forward(*table,
                                 {weight.data(), bias.data(), 1e-12f, channels, x.of(element), residual.of(element),
                                  total.of(element), y.of(element), mean, mean + rows, dropout, element},
                                 rows, 2);
          if (element == Element::bfloat16) kept = total.rounded.floats();
          const void* before = element == Element::bfloat16 ? total.of(element) : static_cast<const void*>(kept.data());
          float* const of_parameters = of_weight.emplace_back(2 * channels).data();
          add_layer_norm_backward(
              *table,
              {weight.data(), channels, grad.of(element), before, mean, mean + rows, of_x.of(element),
               of_residual.of(element), of_parameters, of_parameters + channels, dropout, element},
              rows, 2);
          apply_dropout(*table, dropout, x.of(element), alone.of(element), rows, channels, 2, element);
        }
        for (const Result* result : {&total, &y, &of_x, &of_residual, &alone}) result->check();
        CHECK(same_bits(moments[0].data(), moments[1].data(), 2 * rows));
        CHECK(same_bits(of_weight[0].data(), of_weight[1].data(), 2 * channels));
      }
    }
  }
}
