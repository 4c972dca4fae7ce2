// float32 by parts of bfloat16: what PyTorch calls a float32_matmul_precision, on matrix units.
#include "../core/grouped_pointwise_conv.h"
#include "plain_encoder.h"
#include "third_party/doctest.h"

using namespace squeezebert;
using namespace squeezebert::test;

namespace {

constexpr Precision kByParts[] = {Precision::float32_highest, Precision::float32_high, Precision::float32_medium};
constexpr float kInfinity = std::numeric_limits<float>::infinity(), kNaN = std::numeric_limits<float>::quiet_NaN();

std::vector<const KernelTable*> builds_with_parts() {
  std::vector<const KernelTable*> builds;
  for (const KernelTable* kernels : tested_builds()) {
    if (kernels_in(*kernels, Precision::float32_highest).products > 0) builds.push_back(kernels);
  }
  return builds;
}

struct Numbers {
  int64_t tokens, in, out;
  std::vector<float> x = random_floats(tokens * in, 1), weight = random_floats(out * in, 2);

  ConvWeights weights() const { return {weight.data(), nullptr, nullptr, nullptr, 1, in, out}; }
  std::vector<float> run(const KernelTable& kernels, Precision precision, int threads = 1) const {
    std::vector<float> y(static_cast<std::size_t>(tokens * out), kNaN);
    PackedGroupedPointwiseConv(kernels, precision, weights(), threads)
        .run(x.data(), in, tokens, nullptr, y.data(), out, Activation::none, threads);
    return y;
  }
  template <typename Real>
  std::vector<Real> plain() const {
    return plain_product(std::vector<Real>(x.begin(), x.end()), weights(), Precision::float32);
  }
  // The largest relative error that PyTorch's word for the precision allows for.
  double allowed(Precision precision) const {
    const std::vector<double> exact = plain<double>();
    const double usual = 2 * errors_of(exact, plain<float>(), tokens * out).largest + few_ulp(exact);
    if (precision == Precision::float32_highest) return usual;
    double terms = 0;  // of the largest sum of magnitudes
    for (int64_t t = 0; t < tokens; ++t) {
      for (int64_t n = 0; n < out; ++n) {
        double sum = 0;
        for (int64_t k = 0; k < in; ++k) {
          sum += std::fabs(static_cast<double>(x[static_cast<std::size_t>(t * in + k)]) *
                           weight[static_cast<std::size_t>(n * in + k)]);
        }
        terms = std::max(terms, sum);
      }
    }
    // of a product: two bfloat16 rounded, or the products of parts that are left out
    return usual + terms * (precision == Precision::float32_high ? 0x1p-15 : 0x1p-7);
  }
};

// y = grad^T x, [out, in]
void run_weight_gradient(const PrecisionKernels& kernels, const std::vector<float>& grad, int64_t out,
                         const std::vector<float>& x, int64_t in, const GuardedFloats& y) {
  const GuardedBytes scratch(kernels.weight_gradient_scratch(out, in), Edge::end);
  const auto rows = static_cast<int64_t>(x.size()) / in;
  kernels.weight_gradient({grad.data(), out, x.data(), in, rows, out, in, false, y.data(), in, nullptr},
                          scratch.data());
}

int kind_of(float v) { return std::isnan(v) ? 2 : std::isinf(v) ? (v > 0 ? 1 : -1) : 0; }

}  // namespace

TEST_CASE("a product by parts is as exact as PyTorch's word for it says") {
  for (const Numbers& numbers : sampled(
           std::vector<Numbers>{{33, 192, 100}, {7, 1, 5}, {16, 31, 32}, {17, 33, 48}, {2, 800, 17}, {50, 65, 1}})) {
    const std::vector<double> exact = numbers.plain<double>();
    for (const KernelTable* kernels : builds_with_parts()) {
      for (Precision precision : kByParts) {
        CAPTURE(name_of(*kernels));
        CAPTURE(name_of(precision));
        CAPTURE(numbers.in);
        const std::vector<float> y = numbers.run(*kernels, precision);
        CHECK(errors_of(exact, y, static_cast<int64_t>(y.size())).largest <= numbers.allowed(precision));
      }
    }
  }
}

// Tiles take subnormal parts for zeros, and rounding the largest floats to bfloat16 overflows.
TEST_CASE("a product by parts keeps the size of tiny and huge numbers") {
  for (float size : {0.0f, 1e-44f, 1e-40f, 1e-38f, 1e-35f, 1e-30f, 1e-20f, 1e20f, 1e30f, 3.4e38f}) {
    for (float other : {1e-38f, 1e-25f, 1.0f, 1e25f, 1e38f}) {
      for (bool of_weights : {false, true}) {
        Numbers numbers{17, 40, 33};
        for (float& v : of_weights ? numbers.weight : numbers.x) v *= size;
        for (float& v : of_weights ? numbers.x : numbers.weight) v *= other;
        const std::vector<float> plain = numbers.plain<float>();
        if (largest_magnitude(numbers.plain<double>()) > 1e37) continue;  // a plain chain overflows on the way
        for (const KernelTable* kernels : builds_with_parts()) {
          for (Precision precision : kByParts) {
            CAPTURE(name_of(*kernels));
            CAPTURE(name_of(precision));
            CAPTURE(size);
            CAPTURE(other);
            CAPTURE(of_weights);
            const std::vector<float> y = numbers.run(*kernels, precision);
            const double subnormal = 40 * 0x1p-149;  // of which float32 has whole ones alone
            CHECK(errors_of(numbers.plain<double>(), y, static_cast<int64_t>(y.size())).largest <=
                  numbers.allowed(precision) + subnormal);
          }
        }
      }
    }
  }
}

TEST_CASE("rows of one batch may be as far apart in size as float32 goes") {
  Numbers numbers{34, 40, 33};
  for (std::size_t i = 0; i < numbers.x.size(); ++i) numbers.x[i] *= i / 40 % 2 ? 1e-38f : 1e36f;
  for (const KernelTable* kernels : builds_with_parts()) {
    const std::vector<float> y = numbers.run(*kernels, Precision::float32_highest);
    for (int64_t t = 0; t < numbers.tokens; ++t) {
      Numbers row{1, 40, 33};
      row.x.assign(numbers.x.begin() + t * 40, numbers.x.begin() + (t + 1) * 40);
      CHECK(errors_of(row.plain<double>(), y.data() + t * 33, 33).largest <=
            row.allowed(Precision::float32_highest) + 40 * 0x1p-149);
    }
  }
}

// inf * 0 of a later part is NaN, and so is inf - inf of an infinity's own parts: neither is float32's.
TEST_CASE("by parts, infinities and NaN give what float32 makes of them, and touch nothing else") {
  for (int64_t depth : {32, 45}) {
    for (float special : {kInfinity, -kInfinity, kNaN}) {
      for (bool of_weights : {false, true}) {
        for (int64_t place : {int64_t{0}, int64_t{31}, depth - 1}) {
          const Numbers clean = [&] {
            Numbers all{35, depth, 50};
            // few bits: the later parts are zeros
            for (float& v : all.x) v = std::nearbyint(v * 4) / 4;
            for (float& v : all.weight) v = std::nearbyint(v * 4) / 4;
            return all;
          }();
          Numbers numbers = clean;
          constexpr int64_t kRow = 33;
          (of_weights ? numbers.weight : numbers.x)[static_cast<std::size_t>(kRow * depth + place)] = special;
          const std::vector<float> expected = numbers.plain<float>();
          for (const KernelTable* kernels : builds_with_parts()) {
            for (Precision precision : kByParts) {
              CAPTURE(name_of(*kernels));
              CAPTURE(name_of(precision));
              CAPTURE(special);
              CAPTURE(of_weights);
              CAPTURE(place);
              const std::vector<float> y = numbers.run(*kernels, precision), others = clean.run(*kernels, precision);
              int64_t wrong = 0;
              for (std::size_t i = 0; i < y.size(); ++i) {
                wrong += kind_of(y[i]) != kind_of(expected[i]);
                wrong += kind_of(expected[i]) == 0 && y[i] != others[i];
              }
              CHECK(wrong == 0);
            }
          }
        }
      }
    }
  }
}

TEST_CASE("a sum beyond the largest float is infinite by parts too") {
  Numbers numbers{20, 64, 40};
  for (float& v : numbers.x) v = 3e38f;
  for (std::size_t i = 0; i < numbers.weight.size(); ++i) numbers.weight[i] = i / 64 % 2 ? 0.75f : -0.75f;
  for (const KernelTable* kernels : builds_with_parts()) {
    for (Precision precision : kByParts) {
      CAPTURE(name_of(precision));
      const std::vector<float> y = numbers.run(*kernels, precision);
      for (std::size_t i = 0; i < y.size(); ++i) CHECK(y[i] == (i % 40 % 2 ? kInfinity : -kInfinity));
    }
  }
}

// Every channel has a scale of its own, and so has every stretch of rows.
TEST_CASE("a gradient of weights by parts keeps the size of each channel's numbers") {
  const int64_t rows = 400, out = 21, in = 50;
  std::vector<float> grad = random_floats(rows * out, 3), x = random_floats(rows * in, 4);
  const float sizes[] = {1.0f, 1e-38f, 1e30f, 1e-20f, 0.0f};
  for (std::size_t i = 0; i < grad.size(); ++i) grad[i] *= sizes[i % 21 % 5];
  for (std::size_t i = 0; i < x.size(); ++i) x[i] *= (i / 50 < 256 ? 1.0f : 1e-9f) * (i % 50 % 2 ? 1e-12f : 1e5f);
  for (const KernelTable* kernels : builds_with_parts()) {
    for (Precision precision : kByParts) {
      CAPTURE(name_of(*kernels));
      CAPTURE(name_of(precision));
      const GuardedFloats y(out * in);
      run_weight_gradient(kernels_in(*kernels, precision), grad, out, x, in, y);
      double worst = 0;
      for (int64_t o = 0; o < out; ++o) {
        for (int64_t i = 0; i < in; ++i) {
          double exact = 0, terms = 0;
          for (int64_t r = 0; r < rows; ++r) {
            const double term = static_cast<double>(grad[static_cast<std::size_t>(r * out + o)]) *
                                x[static_cast<std::size_t>(r * in + i)];
            exact += term;
            terms += std::fabs(term);
          }
          const double rounding = static_cast<double>(rows) * 0x1p-149;  // of subnormal sums
          const double error = std::max(0.0, std::fabs(y[o * in + i] - exact) - rounding);
          if (error > 0) worst = std::max(worst, terms > 0 ? error / terms : kInfinity);
        }
      }
      // The parts that are left out, and of float32 the rounding of sums.
      CHECK(worst <= (precision == Precision::float32_medium ? 0x1p-7
                      : precision == Precision::float32_high ? 0x1p-15
                                                             : 0x1p-20));
    }
  }
}

TEST_CASE("gradients of weights by parts have float32's infinities and NaN, and nothing else that isn't finite") {
  const int64_t rows = 200, out = 35, in = 37, row = 197;
  for (float special : {kInfinity, -kInfinity, kNaN}) {
    for (bool of_grad : {true, false}) {
      std::vector<float> grad = random_floats(rows * out, 5), x = random_floats(rows * in, 6);
      for (std::vector<float>* values : {&grad, &x}) {  // few bits: the later parts are zeros
        for (float& v : *values) v = std::nearbyint(v * 4) / 4;
      }
      (of_grad ? grad[static_cast<std::size_t>(row * out + 33)] : x[static_cast<std::size_t>(row * in + 33)]) = special;
      for (const KernelTable* kernels : builds_with_parts()) {
        for (Precision precision : kByParts) {
          CAPTURE(name_of(*kernels));
          CAPTURE(name_of(precision));
          CAPTURE(special);
          CAPTURE(of_grad);
          const GuardedFloats y(out * in);
          run_weight_gradient(kernels_in(*kernels, precision), grad, out, x, in, y);
          int64_t wrong = 0;
          for (int64_t o = 0; o < out; ++o) {
            for (int64_t i = 0; i < in; ++i) {
              float expected = 0;
              for (int64_t r = 0; r < rows; ++r) {
                expected += grad[static_cast<std::size_t>(r * out + o)] * x[static_cast<std::size_t>(r * in + i)];
              }
              const float found = y[o * in + i];
              wrong += kind_of(found) != kind_of(expected) || (kind_of(expected) == 0 && found != expected);
            }
          }
          CHECK(wrong == 0);
        }
      }
    }
  }
}

// Short sequences run on vectors, long ones by parts, in one batch too.
TEST_CASE("an encoder by parts is as exact as plain float32 loops, and short sequences have float32's bits") {
  // Groups of which none lines up with another's; one group of two chunks, the second narrower than the first.
  const EncoderShape misaligned{96, 6, 240, {4, 2, 8, 3, 6, 4}, Activation::gelu, 2};
  const EncoderShape one_group{60, 3, 250, {1, 1, 1, 1, 1, 1}, Activation::gelu, 2};
  for (const EncoderShape& shape : {misaligned, one_group}) {
    const PlainEncoder plain(shape);
    for (const KernelTable* kernels : builds_with_parts()) {
      CAPTURE(name_of(*kernels));
      const Encoder by_parts = plain.packed(*kernels, Precision::float32_highest, 2);
      const Encoder on_vectors = plain.packed(*kernels, Precision::float32);
      CHECK(by_parts.bytes() > 2 * on_vectors.bytes());
      const auto run = [&](const Encoder& encoder, const std::vector<float>& x, int64_t tokens, int threads) {
        std::vector<float> y(x.size());
        EncoderInput input{};
        input.x = x.data();
        input.batch = 1;
        input.tokens = tokens;
        input.row_stride = shape.channels;
        input.y = y.data();
        encoder.run(input, threads);
        return y;
      };
      for (int64_t tokens : {63, 64, 90}) {
        CAPTURE(tokens);
        const std::vector<float> x = random_floats(tokens * shape.channels, 5);
        const std::vector<float> y = run(by_parts, x, tokens, 1), vectors = run(on_vectors, x, tokens, 1);
        CHECK(same_bits(y.data(), vectors.data(), tokens * shape.channels) == (tokens < 64));
        // 16 threads are more than one group's blocks of rows: columns are shared out.
        CHECK(same_bits(y.data(), run(by_parts, x, tokens, 16).data(), tokens * shape.channels));
        const auto exact = plain.states<double>(x, 1, tokens, {}, Precision::float32).back();
        const auto theirs = plain.states<float>(x, 1, tokens, {}, Precision::float32).back();
        const auto count = static_cast<int64_t>(x.size());
        CHECK(errors_of(exact, y, count).root_mean_square <=
              2 * errors_of(exact, theirs, count).root_mean_square + few_ulp(exact));
      }
    }
  }
}

TEST_CASE("of one forward by parts each way to share out the work has the same bits, whatever the numbers' size") {
  // A chunk of hidden channels far smaller than the next: its operands have a scale of their own in both ways.
  const EncoderShape shape{32, 2, 250, {1, 1, 1, 1, 1, 1}, Activation::relu};
  const PlainEncoder plain(shape);
  std::vector<float> x = random_floats(70 * shape.channels, 5);
  for (std::size_t i = 0; i < x.size(); i += 3) x[i] *= 1e-30f;
  for (const KernelTable* kernels : builds_with_parts()) {
    for (Precision precision : kByParts) {
      const Encoder encoder = plain.packed(*kernels, precision);
      std::vector<float> one(x.size()), many(x.size());
      EncoderInput input{};
      input.x = x.data();
      input.batch = 1;
      input.tokens = 70;
      input.row_stride = shape.channels;
      input.y = one.data();
      encoder.run(input, 1);
      input.y = many.data();
      encoder.run(input, 16);
      CHECK(same_bits(one.data(), many.data(), static_cast<int64_t>(x.size())));
    }
  }
}

TEST_CASE("a build without matrix units has float32's own kernels in place of those by parts") {
  for (const KernelTable* kernels : tested_builds()) {
    const PrecisionKernels& plain = kernels_in(*kernels, Precision::float32);
    const int64_t products[] = {6, 3, 1};
    for (int i = 0; i < 3; ++i) {
      const PrecisionKernels& parts = kernels_in(*kernels, kByParts[i]);
      CHECK((parts.products == products[i] || (parts.products == 0 && parts.product == plain.product)));
    }
  }
}
