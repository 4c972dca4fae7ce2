#include "support.h"
#include "third_party/doctest.h"

using namespace squeezebert;
using namespace squeezebert::test;

namespace {

struct Shape {
  int64_t rows, channels;
  bool residual;
  int64_t padding;  // columns between the end of a row and the next
  float eps;

  int64_t stride() const { return channels + padding; }
  int64_t size() const { return rows * stride() - padding; }
};

std::vector<Shape> odd_shapes() {
  std::vector<Shape> shapes;
  int i = 0;
  for (int64_t channels : {1, 2, 3, 4, 7, 8, 15, 16, 17, 31, 48, 96, 100, 768}) {
    for (int64_t rows : {1, 2, 5}) {
      shapes.push_back({rows, channels, i % 2 == 0, i % 3 * 5, i % 5 < 3 ? 1e-12f : 1e-5f});
      ++i;
    }
  }
  return sampled(shapes);
}

struct Numbers {
  explicit Numbers(const Shape& s, Edge edge = Edge::end)
      : shape(s), y(s.size(), edge), residual(s.size(), edge), weight(s.channels, edge), bias(s.channels, edge) {
    for (int64_t r = 0; r < s.rows; ++r) {
      const auto seed = static_cast<uint32_t>(s.channels * 10 + r);
      fill_random(y.data() + r * s.stride(), s.channels, seed);
      fill_random(residual.data() + r * s.stride(), s.channels, seed + 1000);
    }
    fill_random(weight.data(), s.channels, 1);
    fill_random(bias.data(), s.channels, 2);
  }

  template <typename Real>
  std::vector<Real> plain() const {
    std::vector<Real> rows;
    for (int64_t r = 0; r < shape.rows; ++r) {
      const float *from = y.data() + r * shape.stride(), *added = residual.data() + r * shape.stride();
      std::vector<Real> row(from, from + shape.channels);
      const std::vector<Real> other(added, added + shape.channels);
      plain_add_layer_norm(row.data(), shape.residual ? other.data() : nullptr, shape.channels, weight.data(),
                           bias.data(), shape.eps);
      rows.insert(rows.end(), row.begin(), row.end());
    }
    return rows;
  }

  AddLayerNorm norm(const Operands& next = {}) const {
    return {weight.data(),
            bias.data(),
            shape.eps,
            shape.channels,
            shape.residual ? residual.data() : nullptr,
            shape.stride(),
            y.data(),
            shape.stride(),
            next};
  }

  std::vector<float> rows() const {
    std::vector<float> all;
    for (int64_t r = 0; r < shape.rows; ++r) {
      all.insert(all.end(), y.data() + r * shape.stride(), y.data() + r * shape.stride() + shape.channels);
    }
    return all;
  }

  Shape shape;
  GuardedFloats y, residual, weight, bias;
};

}  // namespace

TEST_CASE("a norm is as exact as a plain float32 loop, and touches its rows alone") {
  for (const Shape& shape : odd_shapes()) {
    for (Edge edge : {Edge::begin, Edge::end}) {
      const Numbers numbers(shape, edge);
      const std::vector<double> exact = numbers.plain<double>();
      const std::vector<float> plain = numbers.plain<float>();
      const auto count = static_cast<int64_t>(exact.size());
      for (const KernelTable* kernels : tested_builds()) {
        CAPTURE(name_of(*kernels));
        CAPTURE(shape.rows);
        CAPTURE(shape.channels);
        const Numbers ours(shape, edge);
        kernels_in(*kernels, Precision::float32).add_layer_norm(ours.norm(), {0, shape.rows});
        // Rounding the mean alone moves a row of two by many ulp where the two are close.
        const double theirs = errors_of(exact, plain, count).largest;
        CHECK(errors_of(exact, ours.rows(), count).largest <= 2 * theirs + few_ulp(exact));
        for (int64_t i = 0; i < ours.y.size(); ++i) {
          if (i % shape.stride() >= shape.channels) CHECK(std::isnan(ours.y[i]));
        }
      }
    }
  }
}

TEST_CASE("a row has the same bits whichever rows are normalised with it, in every precision") {
  const Shape shape{7, 100, true, 3, 1e-12f};
  for (const KernelTable* kernels : tested_builds()) {
    const Numbers whole(shape);
    kernels_in(*kernels, Precision::float32).add_layer_norm(whole.norm(), {0, shape.rows});
    for (Precision precision : kAllPrecisions) {
      CAPTURE(name_of(*kernels));
      CAPTURE(name_of(precision));
      const Numbers before(shape), part(shape);
      kernels_in(*kernels, precision).add_layer_norm(part.norm(), {2, 5});
      for (int64_t r = 0; r < shape.rows; ++r) {
        const Numbers& expected = r >= 2 && r < 5 ? whole : before;
        CHECK(same_bits(part.y.data() + r * shape.stride(), expected.y.data() + r * shape.stride(), shape.channels));
      }
    }
  }
}

TEST_CASE("a row of equal numbers is the bias, and a NaN stays in its row") {
  const Shape shape{3, 21, false, 0, 1e-12f};
  for (const KernelTable* kernels : tested_builds()) {
    CAPTURE(name_of(*kernels));
    const Numbers numbers(shape);
    std::fill_n(numbers.y.data(), shape.channels, 0.25f);
    numbers.y[2 * shape.channels + 20] = std::numeric_limits<float>::quiet_NaN();
    kernels_in(*kernels, Precision::float32).add_layer_norm(numbers.norm(), {0, 3});
    CHECK(same_bits(numbers.y.data(), numbers.bias.data(), shape.channels));
    for (int64_t i = 0; i < shape.channels; ++i) {
      CHECK(std::isfinite(numbers.y[shape.channels + i]));
      CHECK(std::isnan(numbers.y[2 * shape.channels + i]));
    }
  }
}

// They are what `prepare` makes of the rows: a product on them gives the same bits as one on rows prepared apart.
TEST_CASE("the operands that a norm leaves are those of its rows") {
  const Shape shape{5, 48, true, 0, 1e-12f};
  constexpr int64_t kGroups = 4;
  for (const KernelTable* kernels : tested_builds()) {
    for (Precision precision : {Precision::bfloat16, Precision::int8}) {
      CAPTURE(name_of(*kernels));
      CAPTURE(name_of(precision));
      const PrecisionKernels& table = kernels_in(*kernels, precision);
      const int64_t bytes = shape.rows * shape.channels * table.operand_bytes;
      const GuardedBytes made(bytes, Edge::end), expected(bytes, Edge::end);
      const GuardedFloats made_scale(shape.rows * kGroups), expected_scale(shape.rows * kGroups);
      const Numbers numbers(shape);
      table.add_layer_norm(numbers.norm({made.data(), shape.channels, made_scale.data(), kGroups, shape.channels}),
                           {0, shape.rows});
      table.prepare(numbers.y.data(), shape.stride(), {0, shape.rows},
                    {expected.data(), shape.channels, expected_scale.data(), kGroups, shape.channels});
      CHECK(std::memcmp(made.data(), expected.data(), static_cast<std::size_t>(bytes)) == 0);
      if (precision == Precision::int8) {
        CHECK(same_bits(made_scale.data(), expected_scale.data(), made_scale.size()));
        for (int64_t g = 0; g < kGroups; ++g) {
          CHECK(made_scale[g] == quantized(numbers.y.data() + g * 12, 12).scale);
        }
      }
    }
  }
}
