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

  template <typename Real>
  AttentionResults<Real> plain(const Dropout& dropout) const {
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
            r.context[at] += p[j] * keep[j] * static_cast<Real>(v[key_row(j) + c]);
            slope[j] += static_cast<Real>(grad[row + c]) * static_cast<Real>(v[key_row(j) + c]) * keep[j];
            r.v[static_cast<std::size_t>(key_row(j) + c)] += p[j] * keep[j] * static_cast<Real>(grad[row + c]);
          }
          mean += p[j] * slope[j];
        }
        for (std::size_t j = 0; j < p.size(); ++j) {
          const Real ds = p[j] * (slope[j] - mean) * scale;
          for (int64_t c = 0; c < shape.head_size; ++c) {
            r.q[static_cast<std::size_t>(row + c)] += ds * static_cast<Real>(k[key_row(j) + c]);
            r.k[static_cast<std::size_t>(key_row(j) + c)] += ds * static_cast<Real>(q[row + c]);
          }
        }
      }
    }
    return r;
  }

  AttentionTensors tensors(const Dropout& dropout, float* statistics) const {
    return {shape.batch,        shape.queries,   shape.keys,
            shape.heads,        shape.head_size, q.data(),
            k.data(),           v.data(),        shape.mask ? mask.data() : nullptr,
            {shape.keys, 0, 0}, dropout,         statistics};
  }

  AttentionShape shape;
  Guarded q, k, v, grad, mask;
};

}  // namespace

TEST_CASE("attention with dropout, and its gradients, are those of a plain loop, on any number of threads") {
  const std::vector<AttentionShape> shapes = {
      {1, 1, 1, 1, 3, false, 0},      {2, 5, 7, 3, 8, true, 0.3},       {1, 49, 49, 2, 64, true, 0},
      {1, 50, 30, 1, 17, false, 0.5}, {1, 7, 600, 2, 33, true, 0.1},    {2, 100, 3, 1, 1, false, 1},
      {1, 3, 529, 1, 20, false, 0.2}, {1, 128, 128, 1, 64, false, 0.1},
  };
  for (const AttentionShape& shape : sampled(shapes)) {
    for (Edge edge : {Edge::begin, Edge::end}) {
      const AttentionNumbers numbers(shape, edge);
      const Dropout dropout = dropout_of(shape.dropout, kDropoutSeed);
      const AttentionResults<double> exact = numbers.plain<double>(dropout);
      const AttentionResults<float> plain = numbers.plain<float>(dropout);
      for (const KernelTable* kernels : tested_builds()) {
        CAPTURE(name_of(*kernels));
        CAPTURE(shape.queries);
        CAPTURE(shape.keys);
        CAPTURE(shape.head_size);
        const GuardedFloats statistics(shape.batch * shape.heads * shape.queries * 2, edge);
        const AttentionTensors tensors = numbers.tensors(dropout, statistics.data());
        const GuardedFloats context(numbers.q.size(), edge), alone(numbers.q.size(), edge);
        attention_forward(*kernels, tensors, alone.data(), 1);
        attention_forward(*kernels, tensors, context.data(), 3);
        CHECK(same_bits(context.data(), alone.data(), context.size()));
        check_errors(exact.context, plain.context, context);
        const GuardedFloats q(numbers.q.size(), edge), k(numbers.k.size(), edge), v(numbers.v.size(), edge);
        attention_backward(*kernels, tensors, {numbers.grad.data(), q.data(), k.data(), v.data()}, 3);
        const GuardedFloats q_alone(q.size(), edge), k_alone(k.size(), edge), v_alone(v.size(), edge);
        attention_backward(*kernels, tensors, {numbers.grad.data(), q_alone.data(), k_alone.data(), v_alone.data()}, 1);
        CHECK(same_bits(q.data(), q_alone.data(), q.size()));
        CHECK(same_bits(k.data(), k_alone.data(), k.size()));
        CHECK(same_bits(v.data(), v_alone.data(), v.size()));
        check_errors(exact.q, plain.q, q);
        check_errors(exact.k, plain.k, k);
        check_errors(exact.v, plain.v, v);
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
  for (const AttentionShape& shape : sampled(shapes)) {
    const AttentionNumbers numbers(shape, Edge::end);
    numbers.make_alike(0.05f);
    const Dropout dropout = dropout_of(shape.dropout, kDropoutSeed);
    const AttentionResults<double> exact = numbers.plain<double>(dropout);
    const AttentionResults<float> plain = numbers.plain<float>(dropout);
    for (const KernelTable* kernels : tested_builds()) {
      CAPTURE(name_of(*kernels));
      CAPTURE(shape.keys);
      const GuardedFloats statistics(shape.batch * shape.heads * shape.queries * 2), context(numbers.q.size());
      const AttentionTensors tensors = numbers.tensors(dropout, statistics.data());
      attention_forward(*kernels, tensors, context.data(), 1);
      const GuardedFloats q(numbers.q.size()), k(numbers.k.size()), v(numbers.v.size());
      attention_backward(*kernels, tensors, {numbers.grad.data(), q.data(), k.data(), v.data()}, 1);
      const auto check = [](const std::vector<double>& exact, const std::vector<float>& plain,
                            const GuardedFloats& ours) {
        const double allowed = errors_of(exact, plain, ours.size()).root_mean_square;
        CHECK(errors_of(exact, ours, ours.size()).root_mean_square <= 2 * allowed + few_ulp(exact));
      };
      check(exact.q, plain.q, q);
      check(exact.k, plain.k, k);
      check(exact.v, plain.v, v);
    }
  }
}

// Some 1e-38 instead would do harm twice: times a large value, and by products so small that the CPU slows down.
TEST_CASE("a masked key has no weight, whatever its value") {
  const AttentionShape shape{2, 5, 40, 2, 16, true, 0};
  for (const KernelTable* kernels : tested_builds()) {
    CAPTURE(name_of(*kernels));
    const AttentionNumbers zero(shape, Edge::end), huge(shape, Edge::end);
    const GuardedFloats statistics(shape.batch * shape.heads * shape.queries * 2), of_zero(zero.q.size()),
        of_huge(zero.q.size());
    const GuardedFloats* contexts[] = {&of_zero, &of_huge};

    std::vector<float> gradients[2];
    for (int which = 0; which < 2; ++which) {
      const AttentionNumbers& numbers = which == 0 ? zero : huge;
      for (int64_t row = shape.keys; row < shape.batch * shape.keys; ++row) {  // the first sequence is masked whole
        if (numbers.mask[row] > -1e30f) continue;
        std::fill_n(numbers.v.data() + row * 32, 32, which == 0 ? 0.0f : 1e37f);
      }
      const AttentionTensors tensors = numbers.tensors(dropout_of(0, 1), statistics.data());
      attention_forward(*kernels, tensors, contexts[which]->data(), 1);
      const GuardedFloats q(numbers.q.size()), k(numbers.k.size()), v(numbers.v.size());
      attention_backward(*kernels, tensors, {numbers.grad.data(), q.data(), k.data(), v.data()}, 1);
      for (const GuardedFloats* each : {&q, &k, &v}) {
        for (int64_t i = 0; i < each->size(); ++i) {
          CHECK(!(std::fabs((*each)[i]) < 1e-37f && (*each)[i] != 0.0f));
          gradients[which].push_back((*each)[i]);
        }
      }
    }
    CHECK(same_bits(of_zero.data(), of_huge.data(), zero.q.size()));
    CHECK(gradients[0] == gradients[1]);
  }
}
