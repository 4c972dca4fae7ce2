// What the tests of the training kernels share.
#pragma once
#include "../core/dropout.h"
#include "support.h"
#include "third_party/doctest.h"

namespace squeezebert::test {

constexpr uint64_t kDropoutSeed = 0x0123456789abcdefull;

// Philox 4x32-10, one counter at a time.
struct Philox {
  uint32_t numbers[4];
  Philox(uint64_t seed, uint32_t c0, uint32_t c1, uint32_t c2, uint32_t c3);
};

// What an element is multiplied by.
double keep_factor(const Dropout& dropout, int64_t row, int64_t column);

// Within twice the error of the same loop in float32, and a few ulp of what sums of `terms` numbers up to 1 grow to. Of
// the errors the root mean square, since the largest of a short sum is luck, in either loop; but that is not far off
// either.
template <typename Actual>
void check_errors(const std::vector<double>& exact, const std::vector<float>& plain, const Actual& ours,
                  int64_t terms = 1, Precision precision = Precision::float32) {
  const auto count = static_cast<int64_t>(exact.size());
  const Errors errors = errors_of(exact, ours, count), allowed = errors_of(exact, plain, count);
  const double size = std::sqrt(static_cast<double>(terms));
  double floor = std::max(few_ulp(exact), few_ulp(std::vector<double>{size}));
  // what two of three parts leave out of factors, and of their products
  if (precision == Precision::float32_high) floor += 0x1p-15 * std::max(size, largest_magnitude(exact));
  CHECK(errors.root_mean_square <= 2 * allowed.root_mean_square + floor);
  CHECK(errors.largest <= 4 * allowed.largest + floor);
}

// Whether operands of a product in this precision are rounded to bfloat16, which one part of float32 is.
inline bool rounds_operands(Precision precision) {
  return precision == Precision::bfloat16 || precision == Precision::float32_medium;
}

// As such operands; the guards stay where they are.
inline std::vector<float> operands_of(const GuardedFloats& values, Precision precision) {
  std::vector<float> operands(values.data(), values.data() + values.size());
  if (rounds_operands(precision)) {
    for (float& v : operands) v = rounded_to_bfloat16(v);
  }
  return operands;
}

// A build, and a precision that its products of gradients run in.
struct GradientBuild {
  const KernelTable* table;
  Precision precision;
  const PrecisionKernels& kernels() const { return kernels_in(*table, precision); }
};
std::vector<GradientBuild> gradient_builds();

struct Guarded : GuardedFloats {
  Guarded(int64_t count, uint32_t seed, Edge edge) : GuardedFloats(count, edge) { fill_random(data(), count, seed); }
};

}  // namespace squeezebert::test
