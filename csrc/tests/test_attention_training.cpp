// Attention in training against plain loops in double.
#include "../core/attention.h"
#include "third_party/doctest.h"
#include "training_support.h"

using namespace squeezebert;
using namespace squeezebert::test;

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

  void round() const {
    for (const Guarded* rows : {&q, &k, &v, &grad}) {
      for (int64_t i = 0; i < rows->size(); ++i) (*rows)[i] = rounded_to_bfloat16((*rows)[i]);
    }
  }

  // `factor`: what becomes of a number that was computed and is multiplied again.
  template <typename Real, typename Factor>
  AttentionResults<Real> plain(const Dropout& dropout, Factor factor) const {
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
            r.context[at] += factor(p[j] * keep[j]) * static_cast<Real>(v[key_row(j) + c]);
            slope[j] += static_cast<Real>(grad[row + c]) * static_cast<Real>(v[key_row(j) + c]) * keep[j];
            r.v[static_cast<std::size_t>(key_row(j) + c)] += factor(p[j] * keep[j]) * static_cast<Real>(grad[row + c]);
          }
          mean += p[j] * slope[j];
        }
        for (std::size_t j = 0; j < p.size(); ++j) {
          const Real ds = factor(p[j] * (slope[j] - mean) * scale);
          for (int64_t c = 0; c < shape.head_size; ++c) {
            r.q[static_cast<std::size_t>(row + c)] += ds * static_cast<Real>(k[key_row(j) + c]);
            r.k[static_cast<std::size_t>(key_row(j) + c)] += ds * static_cast<Real>(q[row + c]);
          }
        }
      }
    }
    return r;
  }

  AttentionResults<double> exact(const Dropout& dropout) const {
    return plain<double>(dropout, [](double v) { return v; });
  }
  AttentionResults<float> plain_in(Precision precision, const Dropout& dropout) const {
    if (precision != Precision::bfloat16) return plain<float>(dropout, [](float v) { return v; });
    AttentionResults<float> r = plain<float>(dropout, rounded_to_bfloat16);
    for (std::vector<float>* result : {&r.context, &r.q, &r.k, &r.v}) {
      for (float& value : *result) value = rounded_to_bfloat16(value);
    }
    return r;
  }

  AttentionShape shape;
  Guarded q, k, v, grad, mask;
};

// A tensor of a precision's own type. What nothing writes is NaN.
class Tensor {
 public:
  Tensor(Precision precision, int64_t size, Edge edge)
      : half_(precision == Precision::bfloat16), size_(size), bytes_(size * (half_ ? 2 : 4), edge) {
    std::memset(bytes_.data(), 0xff, bytes());
  }
  Tensor(Precision precision, const GuardedFloats& values, Edge edge) : Tensor(precision, values.size(), edge) {
    for (int64_t i = 0; i < size_; ++i) {
      const uint32_t bits = bits_of(half_ ? rounded_to_bfloat16(values[i]) : values[i]);
      const auto upper = static_cast<uint16_t>(bits >> 16);
      std::memcpy(at(i), half_ ? static_cast<const void*>(&upper) : &bits, half_ ? 2 : 4);
    }
  }

  void* data() const { return bytes_.data(); }
  int64_t size() const { return size_; }
  float operator[](int64_t i) const {
    uint32_t bits = 0;
    std::memcpy(reinterpret_cast<char*>(&bits) + (half_ ? 2 : 0), at(i), half_ ? 2 : 4);
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
  }
  bool same_as(const Tensor& other) const { return std::memcmp(data(), other.data(), bytes()) == 0; }

 private:
  std::size_t bytes() const { return static_cast<std::size_t>(size_ * (half_ ? 2 : 4)); }
  char* at(int64_t i) const { return bytes_.data() + i * (half_ ? 2 : 4); }

  bool half_;
  int64_t size_;
  GuardedBytes bytes_;
};

// Forward and backward of a build.
struct AttentionRun {
  AttentionRun(const AttentionNumbers& numbers, const GradientBuild& build, const Dropout& dropout, Edge edge,
               int threads)
      : context(build.precision, numbers.q.size(), edge),
        q(build.precision, numbers.q.size(), edge),
        k(build.precision, numbers.k.size(), edge),
        v(build.precision, numbers.v.size(), edge) {
    const AttentionShape& shape = numbers.shape;
    const GuardedFloats statistics(shape.batch * shape.heads * shape.queries * 2, edge);
    const Tensor queries(build.precision, numbers.q, edge), keys(build.precision, numbers.k, edge);
    const Tensor values(build.precision, numbers.v, edge), grad(build.precision, numbers.grad, edge);
    const AttentionTensors tensors{shape.batch,
                                   shape.queries,
                                   shape.keys,
                                   shape.heads,
                                   shape.head_size,
                                   queries.data(),
                                   keys.data(),
                                   values.data(),
                                   shape.mask ? numbers.mask.data() : nullptr,
                                   {shape.keys, 0, 0},
                                   dropout,
                                   statistics.data(),
                                   build.precision == Precision::bfloat16 ? Element::bfloat16 : Element::float32};
    attention_forward(*build.table, build.precision, tensors, context.data(), threads);
    attention_backward(*build.table, build.precision, tensors, {grad.data(), q.data(), k.data(), v.data()}, threads);
  }

  Tensor context, q, k, v;
};

}  // namespace

TEST_CASE("attention with dropout, and its gradients, are those of a plain loop, on any number of threads") {
  const std::vector<AttentionShape> shapes = {
      {1, 1, 1, 1, 3, false, 0},      {2, 5, 7, 3, 8, true, 0.3},       {1, 49, 49, 2, 64, true, 0},
      {1, 50, 30, 1, 17, false, 0.5}, {1, 7, 600, 2, 33, true, 0.1},    {2, 100, 3, 1, 1, false, 1},
      {1, 3, 529, 1, 20, false, 0.2}, {1, 128, 128, 1, 64, false, 0.1}, {1, 70, 300, 1, 40, true, 0.2},
  };
  for (Precision precision : kAllPrecisions) {
    for (const AttentionShape& shape : sampled(shapes)) {
      for (Edge edge : {Edge::begin, Edge::end}) {
        const AttentionNumbers numbers(shape, edge);
        if (precision == Precision::bfloat16) numbers.round();
        const Dropout dropout = dropout_of(shape.dropout, kDropoutSeed);
        const AttentionResults<double> exact = numbers.exact(dropout);
        const AttentionResults<float> plain = numbers.plain_in(precision, dropout);
        for (const GradientBuild& build : gradient_builds()) {
          if (build.precision != precision) continue;
          CAPTURE(name_of(*build.table));
          CAPTURE(name_of(precision));
          CAPTURE(shape.queries);
          CAPTURE(shape.keys);
          CAPTURE(shape.head_size);
          const AttentionRun ours(numbers, build, dropout, edge, 3), alone(numbers, build, dropout, edge, 1);
          CHECK(ours.context.same_as(alone.context));
          CHECK(ours.q.same_as(alone.q));
          CHECK(ours.k.same_as(alone.k));
          CHECK(ours.v.same_as(alone.v));
          check_errors(exact.context, plain.context, ours.context);
          check_errors(exact.q, plain.q, ours.q);
          check_errors(exact.k, plain.k, ours.k);
          check_errors(exact.v, plain.v, ours.v);
        }
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
  for (const GradientBuild& build : gradient_builds()) {
    for (const AttentionShape& shape : sampled(shapes)) {
      const AttentionNumbers numbers(shape, Edge::end);
      numbers.make_alike(0.05f);
      if (build.precision == Precision::bfloat16) numbers.round();
      const Dropout dropout = dropout_of(shape.dropout, kDropoutSeed);
      const AttentionResults<double> exact = numbers.exact(dropout);
      const AttentionResults<float> plain = numbers.plain_in(build.precision, dropout);
      CAPTURE(name_of(*build.table));
      CAPTURE(name_of(build.precision));
      CAPTURE(shape.keys);
      const AttentionRun ours(numbers, build, dropout, Edge::end, 1);
      const auto check = [](const std::vector<double>& exact, const std::vector<float>& plain, const Tensor& ours) {
        const double allowed = errors_of(exact, plain, ours.size()).root_mean_square;
        CHECK(errors_of(exact, ours, ours.size()).root_mean_square <= 2 * allowed + few_ulp(exact));
      };
      check(exact.q, plain.q, ours.q);
      check(exact.k, plain.k, ours.k);
      check(exact.v, plain.v, ours.v);
    }
  }
}

// Some 1e-38 instead would do harm twice: times a large value, and by products so small that the CPU slows down.
TEST_CASE("a masked key has no weight, whatever its value") {
  const AttentionShape shape{2, 5, 40, 2, 16, true, 0};
  for (const GradientBuild& build : gradient_builds()) {
    CAPTURE(name_of(*build.table));
    CAPTURE(name_of(build.precision));
    const AttentionNumbers zero(shape, Edge::end), huge(shape, Edge::end);
    for (const AttentionNumbers* numbers : {&zero, &huge}) {
      for (int64_t row = shape.keys; row < shape.batch * shape.keys; ++row) {  // the first sequence is masked whole
        if (numbers->mask[row] > -1e30f) continue;
        std::fill_n(numbers->v.data() + row * 32, 32, numbers == &zero ? 0.0f : 1e37f);
      }
    }
    const AttentionRun of_zero(zero, build, dropout_of(0, 1), Edge::end, 1);
    const AttentionRun of_huge(huge, build, dropout_of(0, 1), Edge::end, 1);
    for (const Tensor* each : {&of_zero.q, &of_zero.k, &of_zero.v}) {
      for (int64_t i = 0; i < each->size(); ++i) CHECK(!(std::fabs((*each)[i]) < 1e-37f && (*each)[i] != 0.0f));
    }
    CHECK(of_zero.context.same_as(of_huge.context));
    CHECK(of_zero.q.same_as(of_huge.q));
    CHECK(of_zero.k.same_as(of_huge.k));
    CHECK(of_zero.v.same_as(of_huge.v));
  }
}

// Also of the rows beside it, and of those that share its tile.
TEST_CASE("a NaN or infinity reaches what attention and its gradients make of it, and nothing else") {
  const AttentionShape shape{2, 35, 41, 2, 33, false, 0};
  const int64_t channels = shape.heads * shape.head_size, query = shape.queries + 3, key = shape.keys + 17;
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    for (const char* where : {"q", "k", "v", "grad"}) {
      AttentionNumbers numbers(shape, Edge::end);
      const Guarded& tensor = *where == 'q'   ? numbers.q
                              : *where == 'k' ? numbers.k
                              : *where == 'v' ? numbers.v
                                              : numbers.grad;
      const bool by_query = *where == 'q' || *where == 'g';
      tensor[(by_query ? query : key) * channels + 5] = bad;  // of the second sequence's first head
      const Dropout dropout = dropout_of(0, 1);
      const AttentionResults<double> exact = numbers.exact(dropout);
      for (const GradientBuild& build : gradient_builds()) {
        CAPTURE(name_of(*build.table));
        CAPTURE(name_of(build.precision));
        CAPTURE(where);
        CAPTURE(bad);
        const AttentionRun made(numbers, build, dropout, Edge::end, 1);
        const auto check = [](const std::vector<double>& expected, const Tensor& ours) {
          int64_t different = 0;
          for (int64_t i = 0; i < ours.size(); ++i) {
            different += std::isfinite(expected[static_cast<std::size_t>(i)]) != std::isfinite(ours[i]);
          }
          CHECK(different == 0);
        };
        check(exact.context, made.context);
        check(exact.q, made.q);
        check(exact.k, made.k);
        check(exact.v, made.v);
      }
    }
  }
}
