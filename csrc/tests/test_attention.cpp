// Pass A of one head, through the tables.
#include "support.h"
#include "third_party/doctest.h"

using namespace squeezebert;
using namespace squeezebert::test;

namespace {

enum class Mask { none, by_key, by_query_and_key };

struct Shape {
  int64_t head_size, rows;
  Mask mask = Mask::none;
  int64_t row_begin = 0;  // rows of other sequences before it
  int64_t in_channels = 33;
  int64_t drop_every = 0;  // of keys; 0: none
};

// x for more sequences than the one, the weights of one head, and a mask.
struct Head {
  explicit Head(const Shape& s, Edge edge = Edge::end)
      : shape(s),
        x((s.row_begin + s.rows) * s.in_channels, edge),
        weight(random_floats(3 * s.head_size * s.in_channels, 1)),
        bias(random_floats(3 * s.head_size, 2)),
        context_stride(s.head_size + 5) {
    fill_random(x.data(), x.size(), static_cast<uint32_t>(s.rows + s.head_size));
    for (int64_t j = 0; j < s.rows; ++j) {
      if (!s.drop_every || j % s.drop_every != 1) keys.push_back(static_cast<int32_t>(j));
    }
    const auto kept = static_cast<int64_t>(keys.size());
    if (s.mask == Mask::by_key) mask = random_floats(kept, 3);
    if (s.mask == Mask::by_query_and_key) mask = random_floats(kept * s.rows, 4);
    for (float& m : mask) m *= 5;
  }

  ConvWeights projection(int64_t which) const {
    const int64_t first = which * shape.head_size;
    return {weight.data() + first * shape.in_channels,
            nullptr,
            nullptr,
            bias.data() + first,
            1,
            shape.in_channels,
            shape.head_size};
  }

  template <typename Real>
  std::vector<Real> plain(Precision precision, Precision scores = Precision::float32) const {
    const std::vector<Real> rows(x.data() + shape.row_begin * shape.in_channels, x.data() + x.size());
    const std::vector<Real> q = plain_product(rows, projection(0), precision);
    std::vector<Real> k = plain_product(rows, projection(1), precision);
    std::vector<Real> v = plain_product(rows, projection(2), precision);
    // Rows beyond the keys that are kept stand for none: the loop takes as many keys as queries, so they get -inf.
    std::vector<float> added(static_cast<std::size_t>(shape.rows * shape.rows),
                             -std::numeric_limits<float>::infinity());
    const auto kept = static_cast<int64_t>(keys.size());
    for (int64_t i = 0; i < shape.rows; ++i) {
      for (int64_t j = 0; j < kept; ++j) {
        const int64_t row = shape.mask == Mask::by_query_and_key ? i : 0;
        added[static_cast<std::size_t>(i * shape.rows + keys[static_cast<std::size_t>(j)])] =
            shape.mask == Mask::none ? 0 : mask[static_cast<std::size_t>(row * kept + j)];
      }
    }
    std::vector<Real> context(q.size());
    plain_attention(q.data(), k.data(), v.data(), shape.head_size, shape.rows, shape.head_size, added.data(),
                    shape.rows, context.data(), shape.head_size, scores);
    return context;
  }

  // The head's context, and what lies between its rows must stay NaN.
  std::vector<float> run(const KernelTable& kernels, Precision precision, Edge edge = Edge::end) const {
    const int64_t padded = (shape.head_size + kernels.lanes - 1) / kernels.lanes * kernels.lanes;
    PackedSegments segments(kernels, precision);
    std::vector<PackedSegments::Strip> strips;
    for (int64_t p = 0; p < 3; ++p) strips.push_back({projection(p), 0, shape.head_size, p * padded});
    segments.add(strips, 0, 0);
    segments.pack(1);
    const PrecisionKernels& table = kernels_in(kernels, precision);
    const int64_t all = shape.row_begin + shape.rows;
    // A last step of int8 reads a few operands past the row's.
    const GuardedBytes operands(all * shape.in_channels * table.operand_bytes + 4, edge);
    const GuardedFloats scale(all);
    const GuardedBytes scratch((table.attention_scratch(shape.rows, shape.head_size) + 63) / 64 * 64, edge);
    const GuardedFloats context((all - 1) * context_stride + shape.head_size, edge);
    Attention a{};
    a.x = {x.data(), shape.in_channels, nullptr, 1, shape.in_channels};
    if (table.operand_bytes > 0) {
      a.x = {operands.data(), shape.in_channels, scale.data(), 1, shape.in_channels};
      table.prepare(x.data(), shape.in_channels, {0, all}, a.x);
    }
    a.segments = segments.data();
    a.segment_count = segments.size();
    a.head_size = shape.head_size;
    a.scale = static_cast<float>(1 / std::sqrt(static_cast<double>(shape.head_size)));
    a.row_begin = shape.row_begin;
    a.rows = shape.rows;
    a.keys = shape.drop_every ? keys.data() : nullptr;
    a.key_count = static_cast<int64_t>(keys.size());
    a.mask = shape.mask == Mask::none ? nullptr : mask.data();
    a.mask_row_stride = shape.mask == Mask::by_query_and_key ? a.key_count : 0;
    a.context = context.data();
    a.context_row_stride = context_stride;
    table.attention(a, scratch.data());
    std::vector<float> rows;
    for (int64_t i = 0; i < context.size(); ++i) {
      const bool of_head = i / context_stride >= shape.row_begin && i % context_stride < shape.head_size;
      if (of_head) {
        rows.push_back(context[i]);
      } else {
        CHECK(std::isnan(context[i]));
      }
    }
    return rows;
  }

  Shape shape;
  GuardedFloats x;
  std::vector<float> weight, bias, mask;
  std::vector<int32_t> keys;
  int64_t context_stride;
};

// Tiles of queries, vectors and panels of keys, the block of 528 keys: each with a rest, and without.
std::vector<Shape> odd_shapes() {
  std::vector<Shape> shapes;
  constexpr int64_t kRows[] = {1, 2, 3, 7, 16, 17, 24, 25, 48, 49, 130};
  constexpr int64_t kIn[] = {1, 16, 33, 60, 400};
  int i = 0;
  for (int64_t head_size : {1, 6, 16, 20, 48, 64, 80}) {
    for (int64_t rows : kRows) {
      shapes.push_back({head_size, rows, static_cast<Mask>(i % 3), i % 2 * 5, kIn[i % 5], rows > 2 ? i % 4 : 0});
      ++i;
    }
  }
  for (Mask mask : {Mask::none, Mask::by_query_and_key}) {
    for (int64_t rows : {528, 529, 600}) shapes.push_back({6, rows, mask, 0, 12, mask == Mask::none ? 3 : 0});
  }
  shapes.push_back({16, 1100, Mask::by_key, 0, 8});
  shapes = sampled(shapes);
  shapes.push_back({400, 19, Mask::by_query_and_key, 0, 12, 3});  // deeper than a product takes at once
  return shapes;
}

}  // namespace

TEST_CASE("attention of a head is as exact as plain float32 loops, and touches its operands alone") {
  for (const Shape& shape : odd_shapes()) {
    const Edge edge = shape.rows % 2 ? Edge::begin : Edge::end;
    const Head head(shape, edge);
    for (Precision precision : kAllPrecisions) {
      for (const KernelTable* kernels : tested_builds()) {
        // Both loops round what the build rounds: operands of the projections, of scores and values.
        const Precision scores = kernels_in(*kernels, precision).scores;
        const std::vector<double> exact = head.plain<double>(precision, scores);
        const std::vector<float> plain = head.plain<float>(precision, scores);
        const auto count = static_cast<int64_t>(exact.size());
        // Weights that are rounded to bfloat16 come from an exponential that is far finer than that.
        const double coarse = scores == Precision::bfloat16 ? 2e-4 * largest_magnitude(exact) : 0;
        const double most = 2 * errors_of(exact, plain, count).largest + few_ulp(exact) + coarse;
        CAPTURE(name_of(*kernels));
        CAPTURE(name_of(precision));
        CAPTURE(shape.head_size);
        CAPTURE(shape.rows);
        CAPTURE(shape.drop_every);
        CHECK(errors_of(exact, head.run(*kernels, precision, edge), count).largest <= most);
      }
    }
  }
}

// Scores whose exponentials would overflow; a maximum that grows from block to block, and one that is first.
TEST_CASE("large scores give what the exact softmax gives") {
  for (bool rising : {false, true}) {
    for (float size : sampled(std::vector<float>{30.0f, 3000.0f})) {
      Head head({4, 600, Mask::by_key, 0, 8});
      for (std::size_t j = 0; j < head.mask.size(); ++j) {
        const auto step = static_cast<float>(rising ? j : head.mask.size() - j);
        head.mask[j] = size * step / static_cast<float>(head.mask.size());
      }
      const std::vector<double> exact = head.plain<double>(Precision::float32);
      const std::vector<float> plain = head.plain<float>(Precision::float32);
      const auto count = static_cast<int64_t>(exact.size());
      for (const KernelTable* kernels : tested_builds()) {
        CAPTURE(name_of(*kernels));
        CAPTURE(rising);
        CAPTURE(size);
        const double theirs = errors_of(exact, plain, count).largest;
        CHECK(errors_of(exact, head.run(*kernels, Precision::float32), count).largest <= 2 * theirs + few_ulp(exact));
      }
    }
  }
}

TEST_CASE("where a mask lowers every score beyond all others, a query attends as softmax says") {
  const float lowest = std::numeric_limits<float>::lowest(), infinite = -std::numeric_limits<float>::infinity();
  for (int64_t rows : {5, 17, 540}) {
    Head head({6, rows, Mask::by_query_and_key, 0, 8});
    const auto row = [&](int64_t q) { return head.mask.begin() + q * rows; };
    std::fill_n(row(1), rows, lowest);          // uniform
    std::fill_n(row(2), rows, infinite);        // none: NaN
    std::fill_n(row(3), rows - 1, infinite);    // the last alone
    std::fill_n(row(4) + 1, rows - 1, lowest);  // the first alone
    const std::vector<double> exact = head.plain<double>(Precision::float32);
    const std::vector<float> plain = head.plain<float>(Precision::float32);
    CHECK(std::isnan(exact[2 * 6]));
    const auto count = static_cast<int64_t>(exact.size());
    for (const KernelTable* kernels : tested_builds()) {
      CAPTURE(name_of(*kernels));
      CAPTURE(rows);
      const double theirs = errors_of(exact, plain, count).largest;
      CHECK(errors_of(exact, head.run(*kernels, Precision::float32), count).largest <= 2 * theirs + few_ulp(exact));
    }
  }
}

TEST_CASE("keys that are left out leave the bits that a sequence without them has") {
  for (int64_t rows : {7, 49, 540}) {
    const Shape shape{6, rows, Mask::none, 3, 24, 4};
    const Head with(shape);
    const auto kept = static_cast<int64_t>(with.keys.size());
    const Head without({6, kept, Mask::none, 0, 24});
    for (int64_t j = 0; j < kept; ++j) {
      std::copy_n(with.x.data() + (3 + with.keys[static_cast<std::size_t>(j)]) * 24, 24, without.x.data() + j * 24);
    }
    for (const KernelTable* kernels : tested_builds()) {
      for (Precision precision : kAllPrecisions) {
        CAPTURE(name_of(*kernels));
        CAPTURE(name_of(precision));
        CAPTURE(rows);
        const std::vector<float> all = with.run(*kernels, precision), alone = without.run(*kernels, precision);
        int64_t differ = 0;
        for (int64_t j = 0; j < kept; ++j) {
          differ += !same_bits(all.data() + with.keys[static_cast<std::size_t>(j)] * 6, alone.data() + j * 6, 6);
        }
        CHECK(differ == 0);
      }
    }
  }
}

TEST_CASE("a NaN row spoils every query that attends to it, and none that doesn't") {
  const Shape shape{6, 17, Mask::none, 0, 12, 4};
  for (int64_t row : {5, 6}) {  // left out as a key, and not
    const Head head(shape);
    head.x[row * 12 + 3] = std::numeric_limits<float>::quiet_NaN();
    for (const KernelTable* kernels : tested_builds()) {
      for (Precision precision : kAllPrecisions) {
        CAPTURE(name_of(*kernels));
        CAPTURE(name_of(precision));
        const std::vector<float> context = head.run(*kernels, precision);
        for (int64_t i = 0; i < 17 * 6; ++i) {
          CHECK(std::isnan(context[static_cast<std::size_t>(i)]) == (row == 6 || i / 6 == row));
        }
      }
    }
  }
}
