#include "support.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cmath>
#include <sstream>
#include <stdexcept>

#include "../core/grouped_pointwise_conv.h"

namespace squeezebert::test {

GuardedFloats::GuardedFloats(int64_t size, Edge edge) : size_(size) {
  const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  const std::size_t bytes = static_cast<std::size_t>(size) * sizeof(float);
  const std::size_t inner = (bytes + page - 1) / page * page;
  mapped_bytes_ = inner + 2 * page;
  void* mapping = mmap(nullptr, mapped_bytes_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapping == MAP_FAILED) throw std::runtime_error("mmap failed");
  mapping_ = static_cast<char*>(mapping);
  char* first = mapping_ + page;
  if (inner > 0 && mprotect(first, inner, PROT_READ | PROT_WRITE) != 0) throw std::runtime_error("mprotect failed");
  data_ = reinterpret_cast<float*>(edge == begin ? first : first + inner - bytes);
  fill(std::numeric_limits<float>::quiet_NaN());
}

GuardedFloats::~GuardedFloats() { munmap(mapping_, mapped_bytes_); }

void GuardedFloats::fill(float value) {
  for (int64_t i = 0; i < size_; ++i) data_[i] = value;
}

std::string Product::Shape::text() const {
  std::ostringstream out;
  out << tokens << " tokens, " << groups << " groups, " << in_per_group << " -> " << out_per_group << ", padding "
      << x_padding << " and " << y_padding << (bias ? ", bias" : "");
  return out.str();
}

Product::Product(const Shape& s, GuardedFloats::Edge edge)
    : shape(s),
      x(rows_size(s.tokens, s.in_channels(), s.x_row_stride()), edge),
      weight(s.out_channels() * s.in_per_group, edge),
      bias(s.out_channels(), edge) {
  const auto seed = static_cast<uint32_t>(s.tokens * 31 + s.in_per_group * 7 + s.out_per_group);
  for (int64_t t = 0; t < s.tokens; ++t) {
    fill_random(x.data() + t * s.x_row_stride(), s.in_channels(), seed + 1000 * static_cast<uint32_t>(t));
  }
  fill_random(weight.data(), weight.size(), seed + 1);
  fill_random(bias.data(), bias.size(), seed + 2);
}

template <typename Real>
std::vector<Real> Product::plain_loop() const {
  std::vector<Real> y;
  y.reserve(static_cast<std::size_t>(shape.tokens * shape.out_channels()));
  for (int64_t t = 0; t < shape.tokens; ++t) {
    for (int64_t n = 0; n < shape.out_channels(); ++n) {
      const float* row = x.data() + t * shape.x_row_stride() + n / shape.out_per_group * shape.in_per_group;
      const float* column = weight.data() + n * shape.in_per_group;
      Real sum = 0;
      for (int64_t k = 0; k < shape.in_per_group; ++k) sum += static_cast<Real>(row[k]) * static_cast<Real>(column[k]);
      y.push_back(shape.bias ? sum + static_cast<Real>(bias[n]) : sum);
    }
  }
  return y;
}

template std::vector<float> Product::plain_loop<float>() const;
template std::vector<double> Product::plain_loop<double>() const;

void Product::run(const KernelTable& kernels, Activation activation, int threads, GuardedFloats& y) const {
  const PackedGroupedPointwiseConv packed(kernels, weight.data(), shape.groups, shape.out_per_group, shape.in_per_group,
                                          threads);
  packed.run(x.data(), shape.x_row_stride(), shape.tokens, bias_or_null(), y.data(), shape.y_row_stride(), activation,
             threads);
}

template <typename Real>
Real activate(Activation activation, Real x) {
  const Real one = 1, half = Real(0.5);
  switch (activation) {
    case Activation::none:
      return x;
    case Activation::gelu:
      return x * half * (one + std::erf(x * Real(0.70710678118654752440)));
    case Activation::gelu_tanh:
      return half * x * (one + std::tanh(Real(0.79788456080286535588) * (x + Real(0.044715) * x * x * x)));
    case Activation::relu:
      return x < 0 ? Real(0) : x;
    case Activation::silu:
      return x / (one + std::exp(-x));
  }
  throw std::logic_error("unknown activation");
}

template float activate<float>(Activation, float);
template double activate<double>(Activation, double);

std::string name_of(Activation activation) {
  switch (activation) {
    case Activation::none:
      return "none";
    case Activation::gelu:
      return "gelu";
    case Activation::gelu_tanh:
      return "gelu_tanh";
    case Activation::relu:
      return "relu";
    case Activation::silu:
      return "silu";
  }
  throw std::logic_error("unknown activation");
}

void fill_random(float* values, int64_t count, uint32_t seed) {
  std::mt19937 random(seed);
  for (int64_t i = 0; i < count; ++i) {
    // Every second value is halved, so that not all products share an exponent.
    values[i] = static_cast<float>(static_cast<int32_t>(random())) * (i % 2 ? 0x1p-31f : 0x1p-32f);
  }
}

}  // namespace squeezebert::test
