// What the kernel tests share: guarded memory, reproducible numbers, the plain loops that every build is held to, and
// which builds and shapes a run covers.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <limits>
#include <string>
#include <type_traits>
#include <vector>

#include "../core/instruction_sets.h"
#include "../core/packed_segments.h"

namespace squeezebert::test {

constexpr Activation kActivations[] = {Activation::none, Activation::gelu, Activation::gelu_tanh,
                                       Activation::relu, Activation::silu, Activation::tanh};
constexpr Precision kAllPrecisions[] = {Precision::float32, Precision::bfloat16, Precision::int8};

std::string name_of(Activation activation);
std::string name_of(Precision precision);
inline std::string name_of(const KernelTable& kernels) { return kernels.name; }

// kAllPrecisions and, where the build has them, those by parts.
std::vector<Precision> precisions_of(const KernelTable& kernels);

inline const PrecisionKernels& kernels_in(const KernelTable& kernels, Precision precision) {
  return kernels.precision[static_cast<int>(precision)];
}

// ---- what a run covers

// The usable builds that SQUEEZEBERT_TEST_BUILDS (names with commas between them) lists, or all of them. Where there is
// no AMX, avx512_amx runs on an emulator (amx_emulator.h) if it is listed: it is too slow for every run.
const std::vector<const KernelTable*>& tested_builds();

// Where memory is checked or a CPU is emulated, a part must do: of each list of shapes, every
// SQUEEZEBERT_TEST_EVERY-th.
int64_t tested_every();
template <typename T>
std::vector<T> sampled(const std::vector<T>& all) {
  std::vector<T> kept;
  for (std::size_t i = 0; i < all.size(); i += static_cast<std::size_t>(tested_every())) kept.push_back(all[i]);
  return kept;
}

// ---- memory

enum class Edge { begin, end };

// Bytes between two pages that can't be touched. They end where the second page begins (`end`), so that reading or
// writing one too many faults, or begin where the first page ends (`begin`).
class GuardedBytes {
 public:
  GuardedBytes(int64_t bytes, Edge edge);
  ~GuardedBytes();
  GuardedBytes(const GuardedBytes&) = delete;
  GuardedBytes& operator=(const GuardedBytes&) = delete;
  char* data() const { return data_; }

 private:
  char* mapping_;
  std::size_t mapped_bytes_;
  char* data_;
};

// The same as floats, NaN to begin with.
class GuardedFloats {
 public:
  explicit GuardedFloats(int64_t size, Edge edge = Edge::end);
  float* data() const { return data_; }
  int64_t size() const { return size_; }
  float& operator[](int64_t i) const { return data_[i]; }
  void fill(float value) const { std::fill_n(data_, size_, value); }

 private:
  GuardedBytes bytes_;
  float* data_;
  int64_t size_;
};

inline uint32_t bits_of(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}
inline bool same_bits(const float* a, const float* b, int64_t count) {
  return count == 0 || std::memcmp(a, b, static_cast<std::size_t>(count) * sizeof(float)) == 0;
}

// ---- what ends a process

// What a child process wrote to standard error, and the signal that ended it (0: none).
struct ChildEnd {
  std::string message;
  int signal;
};
ChildEnd end_of_child(const std::function<void()>& run);

// ---- numbers

// Uniform in [-1, 1).
void fill_random(float* values, int64_t count, uint32_t seed);
std::vector<float> random_floats(int64_t count, uint32_t seed);

// To nearest, ties to even.
float rounded_to_bfloat16(float value);

// value = int * scale
struct QuantizedRow {
  std::vector<int32_t> ints;
  float scale;
};
QuantizedRow quantized(const float* row, int64_t count);

// ---- plain loops

// A product with the weights of `conv`. Sums in order and bias last, all in the precision of `Real`; operands and
// weights are rounded first as `precision` says. x: [rows, in_channels], returns [rows, out_channels].
template <typename Real>
std::vector<Real> plain_product(const std::vector<Real>& x, const ConvWeights& conv, Precision precision);

// PyTorch's formulas.
template <typename Real>
Real activate(Activation activation, Real x);

template <typename Real>
void activate(Activation activation, std::vector<Real>& values) {
  for (Real& v : values) v = activate(activation, v);
}

// y = layer_norm(y + residual) for one row.
template <typename Real>
void plain_add_layer_norm(Real* y, const Real* residual, int64_t channels, const float* weight, const float* bias,
                          float eps);

// Of one head: softmax(scores * scale + mask) * v. q, k and v: rows of `stride`. Scores that a mask lowers beyond all
// others are what float32 makes of them: the mask itself. `mask` may be null; its row q begins at q * mask_row_stride.
// `operands` bfloat16: q, k and v are rounded; the exponentials too, but not in double, whose error would hide theirs.
template <typename Real>
void plain_attention(const Real* q, const Real* k, const Real* v, int64_t stride, int64_t tokens, int64_t head_size,
                     const float* mask, int64_t mask_row_stride, Real* context, int64_t context_stride,
                     Precision operands = Precision::float32);

// ---- errors

struct Errors {
  double largest = 0, root_mean_square = 0;
};

// Infinite where one is a number and the other is not.
template <typename Exact, typename Actual>
Errors errors_of(const Exact& exact, const Actual& actual, int64_t count) {
  Errors errors;
  double squares = 0;
  for (int64_t i = 0; i < count; ++i) {
    const auto e = static_cast<double>(exact[i]), a = static_cast<double>(actual[i]);
    double error = std::isnan(e) && std::isnan(a) ? 0 : std::fabs(e - a);
    if (std::isnan(error)) error = std::numeric_limits<double>::infinity();
    errors.largest = std::max(errors.largest, error);
    squares += error * error;
  }
  if (count > 0) errors.root_mean_square = std::sqrt(squares / static_cast<double>(count));
  return errors;
}

template <typename Values>
double largest_magnitude(const Values& values) {
  double magnitude = 0;
  for (double v : values) magnitude = std::max(magnitude, std::isfinite(v) ? std::fabs(v) : 0.0);
  return magnitude;
}

// A few units in the last place of the largest number.
template <typename Values>
double few_ulp(const Values& exact) {
  return 4 * static_cast<double>(std::numeric_limits<float>::epsilon()) * largest_magnitude(exact);
}

}  // namespace squeezebert::test
