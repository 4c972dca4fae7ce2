#include <algorithm>
#include <cmath>
#include <memory>

#include "../core/grouped_pointwise_conv.h"
#include "support.h"
#include "third_party/doctest.h"

using namespace squeezebert;
using namespace squeezebert::test;
using Shape = Product::Shape;

namespace {

// Every pair of values from these lists meets in one of 120 shapes, since 3, 7 and 10 have no common factor.
std::vector<Shape> odd_shapes() {
  constexpr int64_t kTokens[] = {0, 1, 2, 3, 7, 8, 9, 15, 16, 17, 33, 130};
  constexpr int64_t kOut[] = {1, 5, 15, 16, 17, 47, 48, 49, 96, 100};
  constexpr int64_t kIn[] = {1, 3, 16, 192, 385, 768, 800};
  constexpr int64_t kGroups[] = {1, 2, 4};
  constexpr int64_t kPadding[] = {0, 1, 13};
  std::vector<Shape> shapes;
  int i = 0;
  for (int64_t tokens : kTokens) {
    for (int64_t out : kOut) {
      shapes.push_back(
          {tokens, kGroups[i % 3], kIn[i % 7], out, kPadding[i / 2 % 3], kPadding[i / 5 % 3], i / 2 % 2 == 0});
      ++i;
    }
  }
  return shapes;
}

// Largest difference from `exact`; infinite when one is a number and the other is not.
template <typename Read>
double largest_error(const std::vector<double>& exact, Read actual) {
  double worst = 0;
  for (std::size_t i = 0; i < exact.size(); ++i) {
    const double error = std::fabs(static_cast<double>(actual(i)) - exact[i]);
    worst = std::isnan(error) ? std::numeric_limits<double>::infinity() : std::max(worst, error);
  }
  return worst;
}

}  // namespace

TEST_CASE("a product is as exact as a plain float32 loop") {
  for (const Shape& shape : odd_shapes()) {
    const Product product(shape);
    const std::vector<float> plain_product = product.plain_loop<float>();
    const std::vector<double> exact_product = product.plain_loop<double>();
    for (Activation activation : kActivations) {
      std::vector<float> plain;
      std::vector<double> exact;
      double magnitude = 0;
      for (float v : plain_product) plain.push_back(activate(activation, v));
      for (double v : exact_product) {
        exact.push_back(activate(activation, v));
        magnitude = std::max(magnitude, std::fabs(exact.back()));
      }
      const double theirs = largest_error(exact, [&](std::size_t i) { return plain[i]; });
      const double floor = 4 * std::numeric_limits<float>::epsilon() * magnitude;
      for (const KernelTable* kernels : usable_kernels()) {
        GuardedFloats y(product.y_size(), GuardedFloats::end);
        product.run(*kernels, activation, 1 + static_cast<int>(shape.out_per_group % 3), y);
        const double ours = largest_error(exact, [&](std::size_t i) {
          const auto row = static_cast<int64_t>(i) / shape.out_channels();
          return y[row * shape.y_row_stride() + static_cast<int64_t>(i) % shape.out_channels()];
        });
        CAPTURE(name_of(*kernels));
        CAPTURE(shape.text());
        CAPTURE(name_of(activation));
        CHECK(ours <= 2 * theirs + floor);
      }
    }
  }
}

// Inputs, packed weights and outputs lie against pages that fault; columns between the rows of y keep what they held.
TEST_CASE("a product touches its operands alone") {
  const float canary = -12345.0f;
  for (const Shape& shape : odd_shapes()) {
    for (GuardedFloats::Edge edge : {GuardedFloats::begin, GuardedFloats::end}) {
      const Product product(shape, edge);
      for (const KernelTable* kernels : usable_kernels()) {
        CAPTURE(name_of(*kernels));
        CAPTURE(shape.text());
        const int64_t columns = kernels->packed_columns(shape.out_per_group);
        GuardedFloats packed(shape.groups * shape.in_per_group * columns, edge);
        kernels->pack_grouped_pointwise_conv(product.weight.data(), shape.groups, shape.out_per_group,
                                             shape.in_per_group, packed.data());
        GuardedFloats y(product.y_size(), edge);
        y.fill(canary);
        for (int64_t group = 0; group < shape.groups; ++group) {
          kernels->grouped_pointwise_conv(
              {product.x.data(), packed.data(), product.bias_or_null(), y.data(), shape.x_row_stride(),
               shape.y_row_stride(), shape.groups, shape.in_per_group, shape.out_per_group, Activation::gelu},
              {group, 0, shape.tokens, 0, shape.out_per_group});
        }
        bool padding_kept = true, all_written = true;
        for (int64_t i = 0; i < y.size(); ++i) {
          const bool is_padding = i % shape.y_row_stride() >= shape.out_channels();
          if (is_padding && y[i] != canary) padding_kept = false;
          if (!is_padding && !(std::fabs(y[i]) < 1000)) all_written = false;
        }
        CHECK(padding_kept);
        CHECK(all_written);
      }
    }
  }
}

TEST_CASE("a token has the same bits in any batch, in any row, on any number of threads") {
  for (const Shape& shape : {Shape{130, 2, 192, 100, 3, 5}, Shape{37, 1, 800, 49}, Shape{9, 4, 385, 47, 0, 1}}) {
    const Product product(shape);
    for (const KernelTable* kernels : usable_kernels()) {
      CAPTURE(name_of(*kernels));
      CAPTURE(shape.text());
      const PackedGroupedPointwiseConv packed(*kernels, product.weight.data(), shape.groups, shape.out_per_group,
                                              shape.in_per_group, 1);
      const auto run = [&](int64_t from, int64_t tokens, int threads) {
        auto y = std::make_unique<GuardedFloats>(tokens * shape.out_channels(), GuardedFloats::end);
        packed.run(product.x.data() + from * shape.x_row_stride(), shape.x_row_stride(), tokens, product.bias_or_null(),
                   y->data(), shape.out_channels(), Activation::gelu, threads);
        return y;
      };
      const auto whole = run(0, shape.tokens, 1);
      const auto equals_whole = [&](const GuardedFloats& y, int64_t from) {
        return std::memcmp(y.data(), whole->data() + from * shape.out_channels(),
                           static_cast<std::size_t>(y.size()) * sizeof(float)) == 0;
      };
      CHECK(equals_whole(*run(0, shape.tokens, 2), 0));
      CHECK(equals_whole(*run(0, shape.tokens, 3), 0));
      int64_t differ_alone = 0, differ_in_later_batch = 0;
      for (int64_t t = 0; t < shape.tokens; ++t) {
        if (!equals_whole(*run(t, 1, 1), t)) ++differ_alone;
      }
      for (int64_t from = 1; from < std::min<int64_t>(shape.tokens, 12); ++from) {
        if (!equals_whole(*run(from, shape.tokens - from, 2), from)) ++differ_in_later_batch;
      }
      CHECK(differ_alone == 0);
      CHECK(differ_in_later_batch == 0);
    }
  }
}

TEST_CASE("an infinity or a NaN stays in its own token and group") {
  const Shape shape{17, 2, 20, 5};
  for (float special : {std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()}) {
    Product product(shape);
    constexpr int64_t kToken = 6, kGroup = 1;
    product.x[kToken * shape.x_row_stride() + kGroup * shape.in_per_group + 3] = special;
    for (const KernelTable* kernels : usable_kernels()) {
      CAPTURE(name_of(*kernels));
      CAPTURE(special);
      GuardedFloats y(product.y_size(), GuardedFloats::end);
      product.run(*kernels, Activation::none, 1, y);
      for (int64_t i = 0; i < y.size(); ++i) {
        const bool touched =
            i / shape.out_channels() == kToken && i % shape.out_channels() / shape.out_per_group == kGroup;
        CAPTURE(i);
        CHECK(std::isfinite(y[i]) == !touched);
      }
    }
  }
}

TEST_CASE("a product over no channels is the activated bias") {
  const Shape shape{9, 2, 0, 21};
  const Product product(shape);
  for (const KernelTable* kernels : usable_kernels()) {
    CAPTURE(name_of(*kernels));
    GuardedFloats y(product.y_size(), GuardedFloats::end);
    product.run(*kernels, Activation::relu, 1, y);
    for (int64_t i = 0; i < y.size(); ++i) CHECK(y[i] == std::max(0.0f, product.bias[i % shape.out_channels()]));
  }
}

TEST_CASE("packed weights say how large they are") {
  for (const KernelTable* kernels : usable_kernels()) {
    CAPTURE(name_of(*kernels));
    const Product product({1, 4, 33, 49});
    const PackedGroupedPointwiseConv packed(*kernels, product.weight.data(), 4, 49, 33, 2);
    CHECK(packed.groups() == 4);
    CHECK(packed.in_channels() == 132);
    CHECK(packed.out_channels() == 196);
    CHECK(packed.bytes() == 4 * 33 * kernels->packed_columns(49) * 4);
    CHECK(&packed.kernels() == kernels);
    for (int64_t n = 0; n < 100; ++n) {
      CHECK(kernels->packed_columns(n) >= n);
      CHECK(kernels->packed_columns(n) < n + kernels->panel_columns);
    }
  }
}

TEST_CASE("packed weights know whether they stand for a weight") {
  const KernelTable& kernels = *usable_kernels().front();
  for (const Shape& shape : {Shape{1, 1, 1, 1}, Shape{1, 2, 5, 6}, Shape{1, 4, 16, 12}}) {
    CAPTURE(shape.text());
    const Product product(shape);
    const GuardedFloats& weight = product.weight;
    const PackedGroupedPointwiseConv packed(kernels, weight.data(), shape.groups, shape.out_per_group,
                                            shape.in_per_group, 1);
    CHECK(packed.matches(weight.data()));
    int64_t noticed = 0;
    int64_t last_noticed = -1, widest_gap = 0;
    for (int64_t i = 0; i < weight.size(); ++i) {
      const float kept = weight[i];
      weight[i] = -kept;
      if (!packed.matches(weight.data())) {
        ++noticed;
        widest_gap = std::max(widest_gap, i - last_noticed);
        last_noticed = i;
      }
      weight[i] = kept;
    }
    const int64_t samples = std::min<int64_t>(64, weight.size());
    CHECK(noticed == samples);
    CHECK(widest_gap <= 2 * ((weight.size() + samples - 1) / samples));  // they are spread out
    CHECK(packed.matches(weight.data()));
  }
}
