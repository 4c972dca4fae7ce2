#include <deque>
#include <memory>
#include <sstream>
#include <stdexcept>

#include "../core/grouped_pointwise_conv.h"
#include "../core/workspace.h"
#include "support.h"
#include "third_party/doctest.h"

using namespace squeezebert;
using namespace squeezebert::test;

namespace {

struct Shape {
  int64_t tokens, groups, in_per_group, out_per_group;
  int64_t x_padding = 0, y_padding = 0;  // columns between the end of a row and the next
  bool bias = true;
  int64_t blocks = 1;  // of int8 scales in a group's inputs

  int64_t in_channels() const { return groups * in_per_group; }
  int64_t out_channels() const { return groups * out_per_group; }
  int64_t x_row_stride() const { return in_channels() + x_padding; }
  int64_t y_row_stride() const { return out_channels() + y_padding; }
  // A last row ends with its last channel: what would pad it is not there.
  int64_t x_size() const { return tokens > 0 ? tokens * x_row_stride() - x_padding : 0; }
  int64_t y_size() const { return tokens > 0 ? tokens * y_row_stride() - y_padding : 0; }
  std::string text() const {
    std::ostringstream out;
    out << tokens << " tokens, " << groups << " groups, " << in_per_group << " -> " << out_per_group << ", padding "
        << x_padding << " and " << y_padding << (bias ? ", bias" : "") << ", blocks " << blocks;
    return out.str();
  }
};

// A shape with numbers. Columns between the rows of x hold NaN.
struct Convolution {
  explicit Convolution(const Shape& s, Edge edge = Edge::end)
      : shape(s), x(s.x_size(), edge), weight(s.out_channels() * s.in_per_group, edge), bias(s.out_channels(), edge) {
    const auto seed = static_cast<uint32_t>(s.tokens * 31 + s.in_per_group * 7 + s.out_per_group);
    for (int64_t t = 0; t < s.tokens; ++t) {
      fill_random(x.data() + t * s.x_row_stride(), s.in_channels(), seed + 1000 * static_cast<uint32_t>(t));
    }
    fill_random(weight.data(), weight.size(), seed + 1);
    fill_random(bias.data(), bias.size(), seed + 2);
  }

  const float* bias_or_null() const { return shape.bias ? bias.data() : nullptr; }
  ConvWeights weights() const {
    return {weight.data(),        nullptr,     nullptr, bias_or_null(), shape.groups, shape.in_channels(),
            shape.out_channels(), shape.blocks};
  }

  template <typename Real>
  std::vector<Real> plain(Precision precision) const {
    std::vector<Real> rows;
    for (int64_t t = 0; t < shape.tokens; ++t) {
      const float* row = x.data() + t * shape.x_row_stride();
      rows.insert(rows.end(), row, row + shape.in_channels());
    }
    return plain_product(rows, weights(), precision);
  }

  void run(const KernelTable& kernels, Precision precision, Activation activation, int threads,
           const GuardedFloats& y) const {
    const PackedGroupedPointwiseConv packed(kernels, precision, weights(), threads);
    packed.run(x.data(), shape.x_row_stride(), shape.tokens, bias_or_null(), y.data(), shape.y_row_stride(), activation,
               threads);
  }

  // y without the columns between its rows.
  std::vector<float> rows_of(const GuardedFloats& y) const {
    std::vector<float> rows;
    for (int64_t t = 0; t < shape.tokens; ++t) {
      const float* row = y.data() + t * shape.y_row_stride();
      rows.insert(rows.end(), row, row + shape.out_channels());
    }
    return rows;
  }

  Shape shape;
  GuardedFloats x, weight, bias;
};

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
      for (int64_t blocks : {2, 3, 5}) {
        if (i % 4 != 0 && kIn[i % 7] % blocks == 0) shapes.back().blocks = blocks;
      }
      ++i;
    }
  }
  return sampled(shapes);
}

int64_t round_up(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

// The table's own function, one segment a group, every buffer against a page that faults. fetch: what is far, and the
// weights of a next product.
void run_guarded(const Convolution& conv, const KernelTable& table, Precision precision, Edge edge, bool fetch,
                 const GuardedFloats& y) {
  const Shape& shape = conv.shape;
  const PrecisionKernels& kernels = kernels_in(table, precision);
  const int64_t columns = shape.out_per_group, depth = shape.in_per_group, padded = round_up(columns, table.lanes);
  // A last step of int8 reads a few operands past the row's.
  const GuardedBytes operands(round_up(shape.tokens * shape.in_channels() * kernels.operand_bytes + 3, 4), edge);
  const GuardedFloats row_scale(shape.tokens * shape.groups, edge);
  Operands x{conv.x.data(), shape.x_row_stride(), nullptr, shape.groups, shape.in_channels()};
  if (kernels.operand_bytes > 0) {
    x = {operands.data(), shape.in_channels(), row_scale.data(), shape.groups, shape.in_channels()};
    kernels.prepare(conv.x.data(), shape.x_row_stride(), {0, shape.tokens}, x);
  }
  for (int64_t group = 0; group < shape.groups; ++group) {
    const GuardedBytes packed(kernels.packed_bytes(columns, depth), edge);
    const GuardedFloats scale(padded, edge), bias(padded, edge), start(padded, edge);
    for (const GuardedFloats* array : {&scale, &bias, &start}) array->fill(0);
    if (shape.bias) std::copy_n(conv.bias.data() + group * columns, columns, bias.data());
    const float* weight = conv.weight.data() + group * columns * depth;
    if (precision == Precision::int8) {
      std::vector<int8_t> ints(static_cast<std::size_t>(columns * depth));
      for (int64_t n = 0; n < columns; ++n) {
        int8_t* row = ints.data() + n * depth;
        scale[n] = quantize_row(weight + n * depth, depth, row);
        int32_t sum = 0;
        for (int64_t k = 0; k < depth; ++k) sum += row[k];
        reinterpret_cast<int32_t*>(start.data())[n] = -kernels.operand_shift * sum;
      }
      kernels.pack(ints.data(), depth, 1, columns, depth, packed.data(), nullptr);
    } else {
      kernels.pack(weight, depth, 1, columns, depth, packed.data(), scale.data());
    }
    const Segment segment{group * depth, depth,        group * columns,
                          columns,       false,        packed.data(),
                          bias.data(),   scale.data(), reinterpret_cast<const int32_t*>(start.data())};
    kernels.product(
        {x, &segment, 1, y.data(), shape.y_row_stride(), Activation::gelu, fetch ? &segment : nullptr, fetch, fetch},
        {0, shape.tokens});
  }
}

}  // namespace

// In float32 that says all; bfloat16 and int8 are held to loops over operands and weights rounded as the format says.
TEST_CASE("a product is as exact as a plain float32 loop") {
  for (const Shape& shape : odd_shapes()) {
    const Convolution conv(shape);
    for (Precision precision : kAllPrecisions) {
      const std::vector<float> plain_product = conv.plain<float>(precision);
      const std::vector<double> exact_product = conv.plain<double>(precision);
      for (Activation activation : kActivations) {
        std::vector<float> plain = plain_product;
        std::vector<double> exact = exact_product;
        activate(activation, plain);
        activate(activation, exact);
        const auto count = static_cast<int64_t>(exact.size());
        // tanh leaves few sums of so many that it doesn't saturate: what those few are off by is luck. Its slope is 1
        // at most, so what all of the sums are off by holds for them.
        const double before =
            activation == Activation::tanh ? errors_of(exact_product, plain_product, count).largest : 0.0;
        const double usual = 2 * std::max(errors_of(exact, plain, count).largest, before) + few_ulp(exact);
        for (const KernelTable* kernels : tested_builds()) {
          const GuardedFloats y(shape.y_size());
          conv.run(*kernels, precision, activation, 1 + static_cast<int>(shape.out_per_group % 3), y);
          CAPTURE(name_of(*kernels));
          CAPTURE(name_of(precision));
          CAPTURE(shape.text());
          CAPTURE(name_of(activation));
          // gelu may be an approximation that is far finer than the rounding that follows.
          const bool coarse = kernels_in(*kernels, precision).coarse_gelu && activation == Activation::gelu;
          CHECK(errors_of(exact, conv.rows_of(y), count).largest <= usual + (coarse ? 2.1e-4 : 0));
        }
      }
    }
  }
}

// Sums are exact, and what follows them is three roundings that IEEE prescribes: a build that saturates, or quantizes
// in another way, differs.
TEST_CASE("an int8 product has the same bits on every build") {
  for (const Shape& shape : odd_shapes()) {
    Convolution conv(shape);
    for (int64_t t = 0; t < shape.tokens; t += 3) {  // all ints as large as they get, which is where 16 bits overflow
      float* row = conv.x.data() + t * shape.x_row_stride();
      for (int64_t i = 0; i < shape.in_channels(); ++i) row[i] = 0.75f;
    }
    for (int64_t n = 0; n < shape.out_channels(); n += 2) {
      std::fill_n(conv.weight.data() + n * shape.in_per_group, shape.in_per_group, -0.5f);
    }
    const std::vector<float> expected = conv.plain<float>(Precision::int8);
    for (const KernelTable* kernels : tested_builds()) {
      CAPTURE(name_of(*kernels));
      CAPTURE(shape.text());
      const GuardedFloats y(shape.y_size());
      conv.run(*kernels, Precision::int8, Activation::none, 2, y);
      CHECK(same_bits(conv.rows_of(y).data(), expected.data(), static_cast<int64_t>(expected.size())));
    }
  }
}

TEST_CASE("weights that come quantized give what the same weights give that are quantized here") {
  Shape with_blocks{9, 2, 36, 19};
  with_blocks.blocks = 3;
  const Convolution conv(with_blocks);
  const Shape& shape = conv.shape;
  const int64_t size = shape.in_per_group / shape.blocks;
  std::vector<int8_t> ints(static_cast<std::size_t>(conv.weight.size()));
  std::vector<float> scale;
  for (int64_t i = 0; i < conv.weight.size(); i += size) {
    scale.push_back(quantize_row(conv.weight.data() + i, size, ints.data() + i));
    const QuantizedRow expected = quantized(conv.weight.data() + i, size);
    CHECK(scale.back() == expected.scale);
    CHECK(std::equal(expected.ints.begin(), expected.ints.end(), ints.begin() + i));
  }
  ConvWeights weights = conv.weights();
  weights.weight = nullptr;
  weights.quantized = ints.data();
  weights.scale = scale.data();
  for (const KernelTable* kernels : tested_builds()) {
    CAPTURE(name_of(*kernels));
    const PackedGroupedPointwiseConv packed(*kernels, Precision::int8, weights, 1);
    const GuardedFloats y(shape.y_size()), expected(shape.y_size());
    packed.run(conv.x.data(), shape.x_row_stride(), shape.tokens, conv.bias_or_null(), y.data(), shape.y_row_stride(),
               Activation::silu, 1);
    conv.run(*kernels, Precision::int8, Activation::silu, 1, expected);
    CHECK(same_bits(y.data(), expected.data(), y.size()));
  }
}

// Inputs, operands, packed weights and outputs lie against pages that fault; columns between the rows of y keep what
// they held.
TEST_CASE("a product touches its operands alone") {
  const float canary = -12345.0f;
  for (const Shape& shape : odd_shapes()) {
    for (Edge edge : {Edge::begin, Edge::end}) {
      const Convolution conv(shape, edge);
      for (const KernelTable* kernels : tested_builds()) {
        for (Precision precision : precisions_of(*kernels)) {
          CAPTURE(name_of(*kernels));
          CAPTURE(name_of(precision));
          CAPTURE(shape.text());
          const GuardedFloats y(shape.y_size(), edge);
          y.fill(canary);
          run_guarded(conv, *kernels, precision, edge, false, y);
          const GuardedFloats fetched(shape.y_size(), edge);
          fetched.fill(canary);
          run_guarded(conv, *kernels, precision, edge, true, fetched);
          CHECK(same_bits(y.data(), fetched.data(), y.size()));
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
}

TEST_CASE("a token has the same bits in any batch, in any row, on any number of threads") {
  for (const Shape& shape :
       {Shape{130, 2, 192, 100, 3, 5}, Shape{37, 1, 800, 49}, Shape{9, 4, 385, 47, 0, 1}, Shape{40, 1, 1700, 200}}) {
    const Convolution conv(shape);
    for (const KernelTable* kernels : tested_builds()) {
      for (Precision precision : precisions_of(*kernels)) {
        CAPTURE(name_of(*kernels));
        CAPTURE(name_of(precision));
        CAPTURE(shape.text());
        const PackedGroupedPointwiseConv packed(*kernels, precision, conv.weights(), 1);
        const auto run = [&](int64_t from, int64_t tokens, int threads) {
          auto y = std::make_unique<GuardedFloats>(tokens * shape.out_channels());
          packed.run(conv.x.data() + from * shape.x_row_stride(), shape.x_row_stride(), tokens, conv.bias_or_null(),
                     y->data(), shape.out_channels(), Activation::gelu, threads);
          return y;
        };
        const auto whole = run(0, shape.tokens, 1);
        const auto equals_whole = [&](const GuardedFloats& y, int64_t from) {
          return same_bits(y.data(), whole->data() + from * shape.out_channels(), y.size());
        };
        for (int threads : {2, 3, 16}) CHECK(equals_whole(*run(0, shape.tokens, threads), 0));
        int64_t differ_alone = 0, differ_in_later_batch = 0;
        for (int64_t t = 0; t < shape.tokens; t += tested_every()) {
          if (!equals_whole(*run(t, 1, 1), t)) ++differ_alone;
        }
        for (int64_t from = 1; from < std::min<int64_t>(shape.tokens, 12); from += tested_every()) {
          if (!equals_whole(*run(from, shape.tokens - from, 2), from)) ++differ_in_later_batch;
        }
        CHECK(differ_alone == 0);
        CHECK(differ_in_later_batch == 0);
      }
    }
  }
}

// 16 inputs are whole steps of every vector, and 17 to 31 leave every rest: a step that reads past a group must not
// bring a NaN along. Token 6 has a neighbour that it may be multiplied with, and token 16 comes last.
TEST_CASE("an infinity or a NaN stays in its own token and group") {
  const std::pair<int64_t, float> cases[] = {{6, std::numeric_limits<float>::infinity()},
                                             {6, std::numeric_limits<float>::quiet_NaN()},
                                             {16, std::numeric_limits<float>::quiet_NaN()}};
  for (int64_t in_per_group = 16; in_per_group < 32; ++in_per_group) {
    const Shape shape{17, 3, in_per_group, 5};
    for (const auto& [token, special] : cases) {
      for (int64_t channel : {int64_t{0}, in_per_group - 1}) {
        const Convolution conv(shape);
        constexpr int64_t kGroup = 1;
        conv.x[token * shape.x_row_stride() + kGroup * shape.in_per_group + channel] = special;
        for (const KernelTable* kernels : tested_builds()) {
          for (Precision precision : precisions_of(*kernels)) {
            CAPTURE(name_of(*kernels));
            CAPTURE(name_of(precision));
            CAPTURE(in_per_group);
            CAPTURE(special);
            const GuardedFloats y(shape.y_size());
            conv.run(*kernels, precision, Activation::none, 1, y);
            int64_t wrong = 0;
            for (int64_t i = 0; i < y.size(); ++i) {
              const bool touched =
                  i / shape.out_channels() == token && i % shape.out_channels() / shape.out_per_group == kGroup;
              const bool spoilt = precision == Precision::int8 ? std::isnan(y[i]) : !std::isfinite(y[i]);
              wrong += spoilt != touched;
            }
            CHECK(wrong == 0);
          }
        }
      }
    }
  }
}

TEST_CASE("an infinite or NaN weight spoils its own channel alone") {
  const Shape shape{5, 2, 20, 5};
  for (float special : {std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()}) {
    const Convolution conv(shape);
    constexpr int64_t kChannel = 7;
    conv.weight[kChannel * shape.in_per_group + 3] = special;
    for (const KernelTable* kernels : tested_builds()) {
      for (Precision precision : precisions_of(*kernels)) {
        CAPTURE(name_of(*kernels));
        CAPTURE(name_of(precision));
        CAPTURE(special);
        const GuardedFloats y(shape.y_size());
        conv.run(*kernels, precision, Activation::none, 1, y);
        for (int64_t i = 0; i < y.size(); ++i) CHECK(std::isfinite(y[i]) == (i % shape.out_channels() != kChannel));
      }
    }
  }
}

TEST_CASE("int8 rows of zeros, tiny and huge numbers keep their size") {
  const Shape shape{1, 1, 33, 7, 0, 0, false};
  for (float size : {0.0f, 1e-44f, 1e-38f, 1e-30f, 1.0f, 1e30f}) {
    const Convolution conv(shape);
    for (int64_t i = 0; i < conv.x.size(); ++i) conv.x[i] *= size;
    const std::vector<float> expected = conv.plain<float>(Precision::int8);
    for (const KernelTable* kernels : tested_builds()) {
      CAPTURE(name_of(*kernels));
      CAPTURE(size);
      const GuardedFloats y(shape.y_size());
      conv.run(*kernels, Precision::int8, Activation::none, 1, y);
      for (int64_t i = 0; i < y.size(); ++i) CHECK(y[i] == expected[static_cast<std::size_t>(i)]);
    }
  }
}

TEST_CASE("a product over no channels is the activated bias") {
  const Shape shape{9, 2, 0, 21};
  const Convolution conv(shape);
  for (const KernelTable* kernels : tested_builds()) {
    for (Precision precision : precisions_of(*kernels)) {
      CAPTURE(name_of(*kernels));
      CAPTURE(name_of(precision));
      const GuardedFloats y(shape.y_size());
      conv.run(*kernels, precision, Activation::relu, 1, y);
      for (int64_t i = 0; i < y.size(); ++i) CHECK(y[i] == std::max(0.0f, conv.bias[i % shape.out_channels()]));
    }
  }
}

TEST_CASE("packed weights say what they are, and take the memory of their precision") {
  const Convolution conv({1, 4, 64, 96});
  const int64_t numbers = conv.weight.size();
  for (const KernelTable* kernels : tested_builds()) {
    for (Precision precision : kAllPrecisions) {
      CAPTURE(name_of(*kernels));
      CAPTURE(name_of(precision));
      const PackedGroupedPointwiseConv packed(*kernels, precision, conv.weights(), 2);
      CHECK(packed.groups() == 4);
      CHECK(packed.in_channels() == 256);
      CHECK(packed.out_channels() == 384);
      CHECK(&packed.kernels() == kernels);
      CHECK(packed.precision() == precision);
      const int64_t bytes = precision == Precision::float32 ? 4 : precision == Precision::bfloat16 ? 2 : 1;
      CHECK(packed.bytes() >= numbers * bytes);
      CHECK(packed.bytes() <= numbers * bytes + 4 * 3 * 384 * 4 + 256);  // three arrays by channel
      CHECK(kernels_in(*kernels, precision).packed_bytes(96, 64) == 96 * 64 * bytes);
    }
  }
}

TEST_CASE("convolutions side by side have the bits of each alone") {
  const Shape small{9, 3, 20, 17}, few{1, 1, 7, 5}, none{0, 2, 4, 4}, large{300, 2, 385, 200};
  for (const Shape& shape : {small, few, none, large}) {
    const Convolution first(shape);
    std::deque<GuardedFloats> weights, biases;
    for (uint32_t i = 0; i < 3; ++i) {
      weights.emplace_back(first.weight.size(), Edge::end);
      biases.emplace_back(first.bias.size(), Edge::end);
      fill_random(weights[i].data(), weights[i].size(), 70 + i);
      fill_random(biases[i].data(), biases[i].size(), 80 + i);
    }
    for (const KernelTable* kernels : tested_builds()) {
      for (Precision precision : {Precision::float32, Precision::bfloat16, Precision::int8}) {
        CAPTURE(name_of(*kernels));
        CAPTURE(shape.text());
        std::vector<PackedGroupedPointwiseConv> packed;
        std::deque<GuardedFloats> ys;
        for (std::size_t i = 0; i < 3; ++i) {
          ConvWeights own = first.weights();
          own.weight = weights[i].data();
          packed.emplace_back(*kernels, precision, own, 1);
          ys.emplace_back(shape.y_size(), Edge::end);
        }
        for (int threads : {1, 3}) {
          std::vector<PackedGroupedPointwiseConv::Term> terms;
          for (std::size_t i = 0; i < 3; ++i) {
            terms.push_back({&packed[i], first.x.data(), i == 1 ? nullptr : biases[i].data(), ys[i].data()});
          }
          PackedGroupedPointwiseConv::run_side_by_side(terms, shape.tokens, threads);
          for (std::size_t i = 0; i < 3; ++i) {
            const GuardedFloats alone(shape.y_size(), Edge::end);
            packed[i].run(first.x.data(), shape.in_channels(), shape.tokens, terms[i].bias, alone.data(),
                          shape.out_channels(), Activation::none, 1);
            CHECK(same_bits(ys[i].data(), alone.data(), alone.size()));
          }
        }
      }
    }
  }
}

TEST_CASE("convolutions that differ in shape or precision are refused together") {
  const KernelTable& kernels = *tested_builds().front();
  const Convolution conv({3, 1, 8, 8}), other({3, 2, 4, 4});
  const PackedGroupedPointwiseConv a(kernels, Precision::float32, conv.weights(), 1);
  const PackedGroupedPointwiseConv shape(kernels, Precision::float32, other.weights(), 1);
  const PackedGroupedPointwiseConv precision(kernels, Precision::bfloat16, conv.weights(), 1);
  std::vector<float> y(24);
  const auto together = [&](const PackedGroupedPointwiseConv& b) {
    PackedGroupedPointwiseConv::run_side_by_side(
        {{&a, conv.x.data(), nullptr, y.data()}, {&b, conv.x.data(), nullptr, y.data()}}, 3, 1);
  };
  CHECK_THROWS_AS(together(shape), std::invalid_argument);
  CHECK_THROWS_AS(together(precision), std::invalid_argument);
  CHECK_THROWS_AS(PackedGroupedPointwiseConv::run_sum(
                      {{&a, conv.x.data(), nullptr, y.data()}, {&precision, conv.x.data(), nullptr, y.data()}}, 3, 1),
                  std::invalid_argument);
}

TEST_CASE("memory of a size that was given up is taken again") {
  const int64_t size = 3 << 20, other = size + 64, large = 17 << 20;
  const auto address_of = [](int64_t bytes) { return RecycledMemory(bytes).data(); };
  const char* const first = address_of(size);
  {
    const RecycledMemory held(size);
    CHECK(held.data() == first);
    CHECK(held.bytes() == size);
    CHECK(address_of(size) != first);  // in use
    CHECK(address_of(other) != first);
  }
  RecycledMemory moved(other);
  moved = RecycledMemory(size);
  CHECK(moved.bytes() == size);
  const RecycledMemory huge(large), nothing;
  CHECK(huge.data() != nullptr);
  CHECK(nothing.data() == nullptr);
  // The oldest make way: these are more than is kept.
  std::vector<RecycledMemory> many;
  for (int64_t i = 0; i < 12; ++i) many.emplace_back((4 << 20) + i * 64);
  many.clear();
  const RecycledMemory last((4 << 20) + 11 * 64);
  CHECK(last.bytes() == (4 << 20) + 11 * 64);
}
