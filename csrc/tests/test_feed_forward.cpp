// Pass C of one group, through the tables.
#include "../core/feed_forward_chunks.h"
#include "support.h"
#include "third_party/doctest.h"

using namespace squeezebert;
using namespace squeezebert::test;

namespace {

struct Shape {
  int64_t rows, in_channels, hidden, out_channels;
  Activation activation = Activation::gelu;
  int64_t row_begin = 0;
};

struct Block {
  explicit Block(const Shape& s, Edge edge = Edge::end)
      : shape(s),
        x((s.row_begin + s.rows) * s.in_channels, edge),
        in_weight(random_floats(s.hidden * s.in_channels, 1)),
        in_bias(random_floats(s.hidden, 2)),
        out_weight(random_floats(s.out_channels * s.hidden, 3)),
        out_bias(random_floats(s.out_channels, 4)) {
    fill_random(x.data(), x.size(), static_cast<uint32_t>(s.rows + s.hidden));
  }

  ConvWeights in() const {
    return {in_weight.data(), nullptr, nullptr, in_bias.data(), 1, shape.in_channels, shape.hidden};
  }
  ConvWeights out() const {
    return {out_weight.data(), nullptr, nullptr, out_bias.data(), 1, shape.hidden, shape.out_channels};
  }

  template <typename Real>
  std::vector<Real> plain(Precision precision) const {
    const std::vector<Real> rows(x.data() + shape.row_begin * shape.in_channels, x.data() + x.size());
    std::vector<Real> hidden = plain_product(rows, in(), precision);
    activate(shape.activation, hidden);
    return plain_product(hidden, out(), precision);
  }

  // The hidden channels in chunks of `chunk` but for int8, whose rows have one scale; y rows `stride` apart.
  void run(const KernelTable& kernels, Precision precision, int64_t chunk, Rows rows, const GuardedFloats& y,
           int64_t stride, Edge edge) const {
    if (precision == Precision::int8) chunk = shape.hidden;
    PackedSegments segments(kernels, precision);
    std::vector<FeedForwardChunk> pieces;
    for (int64_t begin = 0; begin < shape.hidden; begin += chunk) {
      const int64_t count = std::min(chunk, shape.hidden - begin);
      const Piece first = segments.add({{in(), begin, count, 0}}, 0, begin);
      const Piece second = segments.add({{out(), 0, shape.out_channels, 0}}, 0, 0, begin, count, begin == 0);
      pieces.push_back({first, second, begin, count});
    }
    segments.pack(1);
    const std::vector<FeedForward::Chunk> chunks = chunks_on(segments.data(), pieces);
    const PrecisionKernels& table = kernels_in(kernels, precision);
    const int64_t all = shape.row_begin + shape.rows;
    const GuardedBytes operands(all * shape.in_channels * table.operand_bytes + 4, edge);
    const GuardedFloats scale(all);
    FeedForward block{};
    block.x = {x.data(), shape.in_channels, nullptr, 1, shape.in_channels};
    if (table.operand_bytes > 0) {
      block.x = {operands.data(), shape.in_channels, scale.data(), 1, shape.in_channels};
      table.prepare(x.data(), shape.in_channels, {0, all}, block.x);
    }
    block.chunks = chunks.data();
    block.chunk_count = static_cast<int64_t>(chunks.size());
    block.activation = shape.activation;
    block.y = y.data();
    block.y_row_stride = stride;
    const GuardedBytes scratch((table.feed_forward_scratch(block) + 63) / 64 * 64, edge);
    table.feed_forward(block, rows, scratch.data());
  }

  std::vector<float> run(const KernelTable& kernels, Precision precision, int64_t chunk, Edge edge = Edge::end) const {
    const int64_t stride = shape.out_channels + 3, all = shape.row_begin + shape.rows;
    const GuardedFloats y(all * stride - 3, edge);
    run(kernels, precision, chunk, {shape.row_begin, all}, y, stride, edge);
    std::vector<float> rows;
    for (int64_t i = 0; i < y.size(); ++i) {
      if (i / stride >= shape.row_begin && i % stride < shape.out_channels) {
        rows.push_back(y[i]);
      } else {
        CHECK(std::isnan(y[i]));
      }
    }
    return rows;
  }

  Shape shape;
  GuardedFloats x;
  std::vector<float> in_weight, in_bias, out_weight, out_bias;
};

constexpr int64_t kChunks[] = {192, 48, 21, 1000};

// Rows cross the stretches of 32 and 128 rows that a call works in.
std::vector<Shape> odd_shapes() {
  std::vector<Shape> shapes;
  constexpr int64_t kRows[] = {1, 2, 7, 31, 33, 64, 127, 129, 300};
  constexpr int64_t kIn[] = {1, 16, 24, 45, 400};
  constexpr int64_t kHidden[] = {1, 17, 40, 60, 193, 256, 800};
  constexpr int64_t kOut[] = {1, 15, 24, 60, 200};
  for (int i = 0; i < 60; ++i) {
    const int64_t hidden = kHidden[i % 7], rows = hidden > 200 ? kRows[i % 9] % 100 + 1 : kRows[i % 9];
    shapes.push_back({rows, kIn[i % 5], hidden, kOut[i / 2 % 5], kActivations[i % std::size(kActivations)], i % 2 * 9});
  }
  return sampled(shapes);
}

}  // namespace

TEST_CASE("a feed-forward block is as exact as plain float32 loops, and touches its operands alone") {
  int number = 0;
  for (const Shape& shape : odd_shapes()) {
    const Edge edge = number % 2 ? Edge::begin : Edge::end;
    const int64_t chunk = kChunks[number++ % 4];
    const Block block(shape, edge);
    const std::vector<double> unrounded = block.plain<double>(Precision::float32);
    for (Precision precision : kAllPrecisions) {
      const std::vector<double> rounded = block.plain<double>(precision);
      const std::vector<float> plain = block.plain<float>(precision);
      const auto count = static_cast<int64_t>(rounded.size());
      for (const KernelTable* kernels : tested_builds()) {
        CAPTURE(name_of(*kernels));
        CAPTURE(name_of(precision));
        CAPTURE(shape.rows);
        CAPTURE(shape.in_channels);
        CAPTURE(shape.hidden);
        CAPTURE(shape.out_channels);
        CAPTURE(chunk);
        const std::vector<float> ours = block.run(*kernels, precision, chunk, edge);
        if (precision == Precision::float32) {
          const double theirs = errors_of(unrounded, plain, count).largest;
          CHECK(errors_of(unrounded, ours, count).largest <= 2 * theirs + few_ulp(unrounded));
          continue;
        }
        // A hidden number that lies close to the middle between two of its format may be rounded to either, by any
        // loop. So what the rounding costs is the measure, and of it a fraction that a wrong scale would exceed.
        const double cost = errors_of(unrounded, rounded, count).root_mean_square;
        CHECK(errors_of(rounded, ours, count).root_mean_square <= 0.25 * cost + few_ulp(rounded));
      }
    }
  }
}

TEST_CASE("a row of a feed-forward block has the same bits whichever rows are computed with it") {
  const Shape shape{300, 24, 60, 24};
  constexpr int64_t kChunk = 21, kStride = 24;
  for (const KernelTable* kernels : tested_builds()) {
    for (Precision precision : kAllPrecisions) {
      CAPTURE(name_of(*kernels));
      CAPTURE(name_of(precision));
      const Block block(shape);
      const GuardedFloats whole(shape.rows * kStride);
      block.run(*kernels, precision, kChunk, {0, shape.rows}, whole, kStride, Edge::end);
      for (const Rows rows : {Rows{0, 1}, Rows{5, 6}, Rows{31, 70}, Rows{127, 300}, Rows{298, 300}, Rows{9, 9}}) {
        CAPTURE(rows.begin);
        const GuardedFloats part(shape.rows * kStride);
        block.run(*kernels, precision, kChunk, rows, part, kStride, Edge::end);
        bool untouched = true;
        for (int64_t i = 0; i < part.size(); ++i) {
          const bool inside = i / kStride >= rows.begin && i / kStride < rows.end;
          if (!inside && !std::isnan(part[i])) untouched = false;
        }
        CHECK(untouched);
        CHECK(same_bits(part.data() + rows.begin * kStride, whole.data() + rows.begin * kStride,
                        (rows.end - rows.begin) * kStride));
      }
    }
  }
}

TEST_CASE("a NaN in a row of a feed-forward block stays in that row") {
  const Shape shape{40, 15, 21, 9};
  for (const KernelTable* kernels : tested_builds()) {
    for (Precision precision : kAllPrecisions) {
      for (float special : {std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()}) {
        CAPTURE(name_of(*kernels));
        CAPTURE(name_of(precision));
        CAPTURE(special);
        const Block block(shape);
        block.x[33 * 15] = special;
        const std::vector<float> y = block.run(*kernels, precision, 21);
        for (int64_t i = 0; i < 40 * 9; ++i) {
          CHECK(std::isfinite(y[static_cast<std::size_t>(i)]) == (i / 9 != 33));
        }
      }
    }
  }
}
