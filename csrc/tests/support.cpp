#include "support.h"

#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <random>
#include <sstream>
#include <stdexcept>

#include "amx_emulated_build.h"
#include "amx_twin_build.h"

namespace squeezebert::test {

// The emulated build is tested where it is asked for: a tile instruction takes microseconds.
const std::vector<const KernelTable*>& tested_builds() {
  const KernelTable* const emulated = emulated_amx_kernels();
  static const std::vector<const KernelTable*> tested = [emulated] {
    std::vector<const KernelTable*> all = usable_kernels(), found;
    if (const KernelTable* twin = usable_amx_twin()) all.push_back(twin);
    const char* names = std::getenv("SQUEEZEBERT_TEST_BUILDS");
    if (!names) return all;
    if (emulated) all.push_back(emulated);
    std::istringstream in(names);
    for (std::string name; std::getline(in, name, ',');) {
      for (const KernelTable* kernels : all) {
        if (kernels->name == name) found.push_back(kernels);
      }
    }
    if (found.empty()) throw std::runtime_error("no build of SQUEEZEBERT_TEST_BUILDS is usable here");
    return found;
  }();
  return tested;
}

int64_t tested_every() {
  static const int64_t every = [] {
    const char* number = std::getenv("SQUEEZEBERT_TEST_EVERY");
    return number ? std::max(std::atoi(number), 1) : 1;
  }();
  return every;
}

GuardedBytes::GuardedBytes(int64_t size, Edge edge) {
  const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  const auto bytes = static_cast<std::size_t>(size);
  const std::size_t inner = (bytes + page - 1) / page * page;
  mapped_bytes_ = inner + 2 * page;
  void* mapping = mmap(nullptr, mapped_bytes_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapping == MAP_FAILED) throw std::runtime_error("mmap failed");
  mapping_ = static_cast<char*>(mapping);
  char* first = mapping_ + page;
  if (inner > 0 && mprotect(first, inner, PROT_READ | PROT_WRITE) != 0) throw std::runtime_error("mprotect failed");
  data_ = edge == Edge::begin ? first : first + inner - bytes;
}

GuardedBytes::~GuardedBytes() { munmap(mapping_, mapped_bytes_); }

GuardedFloats::GuardedFloats(int64_t size, Edge edge)
    : bytes_(size * static_cast<int64_t>(sizeof(float)), edge),
      data_(reinterpret_cast<float*>(bytes_.data())),
      size_(size) {
  fill(std::numeric_limits<float>::quiet_NaN());
}

ChildEnd end_of_child(const std::function<void()>& run) {
  int ends[2];
  if (pipe(ends) != 0) throw std::runtime_error("pipe failed");
  const pid_t child = fork();
  if (child < 0) throw std::runtime_error("fork failed");
  if (child == 0) {
    for (const int number : {SIGABRT, SIGILL}) std::signal(number, SIG_DFL);  // instead of doctest's
    dup2(ends[1], STDERR_FILENO);
    run();
    _exit(0);
  }
  close(ends[1]);
  ChildEnd end{{}, 0};
  char buffer[256];
  for (ssize_t count; (count = read(ends[0], buffer, sizeof buffer)) > 0;) {
    end.message.append(buffer, static_cast<std::size_t>(count));
  }
  close(ends[0]);
  int status = 0;
  if (waitpid(child, &status, 0) != child) throw std::runtime_error("waitpid failed");
  end.signal = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
  return end;
}

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
    case Activation::tanh:
      return "tanh";
  }
  throw std::logic_error("unknown activation");
}

std::string name_of(Precision precision) {
  switch (precision) {
    case Precision::float32:
      return "float32";
    case Precision::bfloat16:
      return "bfloat16";
    case Precision::int8:
      return "int8";
    case Precision::float32_highest:
      return "float32_highest";
    case Precision::float32_high:
      return "float32_high";
    case Precision::float32_medium:
      return "float32_medium";
  }
  throw std::logic_error("unknown precision");
}

std::vector<Precision> precisions_of(const KernelTable& kernels) {
  std::vector<Precision> precisions(std::begin(kAllPrecisions), std::end(kAllPrecisions));
  for (Precision precision : {Precision::float32_highest, Precision::float32_high, Precision::float32_medium}) {
    if (kernels_in(kernels, precision).products > 0) precisions.push_back(precision);
  }
  return precisions;
}

void fill_random(float* values, int64_t count, uint32_t seed) {
  std::mt19937 random(seed);
  for (int64_t i = 0; i < count; ++i) {
    // Every second value is halved, so that not all products share an exponent.
    values[i] = static_cast<float>(static_cast<int32_t>(random())) * (i % 2 ? 0x1p-31f : 0x1p-32f);
  }
}

std::vector<float> random_floats(int64_t count, uint32_t seed) {
  std::vector<float> values(static_cast<std::size_t>(count));
  fill_random(values.data(), count, seed);
  return values;
}

float rounded_to_bfloat16(float value) {
  if (!std::isfinite(value) || value == 0) return value;
  int exponent;
  std::frexp(value, &exponent);
  const double unit = std::ldexp(1.0, std::max(exponent, -125) - 8);  // 8 significant bits, fewer in a denormal
  return static_cast<float>(std::nearbyint(static_cast<double>(value) / unit) * unit);
}

QuantizedRow quantized(const float* row, int64_t count) {
  float bound = 0;
  for (int64_t i = 0; i < count; ++i) {
    if (!std::isfinite(row[i])) {
      return {std::vector<int32_t>(static_cast<std::size_t>(count)), std::numeric_limits<float>::quiet_NaN()};
    }
    bound = std::max(bound, std::fabs(row[i]));
  }
  QuantizedRow result{{}, bound / 127};
  const float inverse = bound > 1e-36f ? 127 / bound : 0;
  for (int64_t i = 0; i < count; ++i) result.ints.push_back(static_cast<int32_t>(std::nearbyint(row[i] * inverse)));
  return result;
}

namespace {

// Every block of a group's inputs has a scale of each row of operands and of weights.
template <typename Real>
std::vector<Real> plain_int8_product(const std::vector<Real>& x, const ConvWeights& conv) {
  const int64_t blocks = conv.scales_per_group, size = conv.in_per_group() / blocks;
  const auto quantized_blocks = [size](const float* values, int64_t count) {
    std::vector<QuantizedRow> rows;
    for (int64_t i = 0; i < count; ++i) rows.push_back(quantized(values + i * size, size));
    return rows;
  };
  const std::vector<QuantizedRow> weights = quantized_blocks(conv.weight, conv.out_channels * blocks);
  const std::vector<float> values(x.begin(), x.end());
  const int64_t scales = conv.groups * blocks, rows = static_cast<int64_t>(x.size()) / conv.in_channels;
  const std::vector<QuantizedRow> operands = quantized_blocks(values.data(), rows * scales);
  std::vector<Real> y;
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t n = 0; n < conv.out_channels; ++n) {
      Real total = 0;
      for (int64_t b = 0; b < blocks; ++b) {
        const auto group = n / conv.out_per_group();
        const QuantizedRow& w = weights[static_cast<std::size_t>(n * blocks + b)];
        const QuantizedRow& v = operands[static_cast<std::size_t>(row * scales + group * blocks + b)];
        int64_t sum = 0;
        for (std::size_t k = 0; k < w.ints.size(); ++k) sum += w.ints[k] * v.ints[k];
        total += static_cast<Real>(sum) * static_cast<Real>(w.scale) * static_cast<Real>(v.scale);
        if (b == 0) total += static_cast<Real>(conv.bias ? conv.bias[n] : 0);  // a column's first segment has it
      }
      y.push_back(total);
    }
  }
  return y;
}

}  // namespace

template <typename Real>
std::vector<Real> plain_product(const std::vector<Real>& x, const ConvWeights& conv, Precision precision) {
  const int64_t depth = conv.in_per_group();
  const auto rows = conv.in_channels > 0 ? static_cast<int64_t>(x.size()) / conv.in_channels : 0;
  if (precision == Precision::int8) return plain_int8_product(x, conv);
  std::vector<Real> operands = x;
  std::vector<Real> weight(conv.weight, conv.weight + conv.out_channels * depth);
  if (precision == Precision::bfloat16) {
    for (std::vector<Real>* values : {&operands, &weight}) {
      for (Real& v : *values) v = static_cast<Real>(rounded_to_bfloat16(static_cast<float>(v)));
    }
  }
  std::vector<Real> y;
  y.reserve(static_cast<std::size_t>(rows * conv.out_channels));
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t n = 0; n < conv.out_channels; ++n) {
      const Real* values = operands.data() + row * conv.in_channels + n / conv.out_per_group() * depth;
      const Real* column = weight.data() + n * depth;
      Real sum = 0;
      for (int64_t k = 0; k < depth; ++k) sum += values[k] * column[k];
      y.push_back(sum + static_cast<Real>(conv.bias ? conv.bias[n] : 0));
    }
  }
  return y;
}

template std::vector<float> plain_product(const std::vector<float>&, const ConvWeights&, Precision);
template std::vector<double> plain_product(const std::vector<double>&, const ConvWeights&, Precision);

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
    case Activation::tanh:
      return std::tanh(x);
  }
  throw std::logic_error("unknown activation");
}

template float activate<float>(Activation, float);
template double activate<double>(Activation, double);

template <typename Real>
void plain_add_layer_norm(Real* y, const Real* residual, int64_t channels, const float* weight, const float* bias,
                          float eps) {
  Real total = 0, squares = 0;
  for (int64_t i = 0; i < channels; ++i) {
    if (residual) y[i] += residual[i];
    total += y[i];
  }
  const Real mean = total / static_cast<Real>(channels);
  for (int64_t i = 0; i < channels; ++i) squares += (y[i] - mean) * (y[i] - mean);
  const Real deviation = std::sqrt(squares / static_cast<Real>(channels) + static_cast<Real>(eps));
  for (int64_t i = 0; i < channels; ++i) {
    y[i] = (y[i] - mean) / deviation * static_cast<Real>(weight[i]) + static_cast<Real>(bias[i]);
  }
}

template void plain_add_layer_norm(float*, const float*, int64_t, const float*, const float*, float);
template void plain_add_layer_norm(double*, const double*, int64_t, const float*, const float*, float);

template <typename Real>
void plain_attention(const Real* q, const Real* k, const Real* v, int64_t stride, int64_t tokens, int64_t head_size,
                     const float* mask, int64_t mask_row_stride, Real* context, int64_t context_stride,
                     Precision operands) {
  const Real scale = static_cast<Real>(1 / std::sqrt(static_cast<double>(head_size)));
  const auto operand = [&](Real value) {
    if (operands == Precision::float32) return value;
    return static_cast<Real>(rounded_to_bfloat16(static_cast<float>(value)));
  };
  std::vector<Real> scores(static_cast<std::size_t>(tokens));
  for (int64_t i = 0; i < tokens; ++i) {
    Real largest = -std::numeric_limits<Real>::infinity(), total = 0;
    for (int64_t j = 0; j < tokens; ++j) {
      Real sum = 0;
      for (int64_t c = 0; c < head_size; ++c) sum += operand(q[i * stride + c]) * operand(k[j * stride + c]);
      const float added = mask ? mask[i * mask_row_stride + j] : 0;
      Real& score = scores[static_cast<std::size_t>(j)];
      score = added < -1e30f ? static_cast<Real>(added) : sum * scale + static_cast<Real>(added);
      largest = std::max(largest, score);
    }
    for (Real& score : scores) {
      total += score = std::exp(score - largest);
      if (std::is_same_v<Real, float>) score = operand(score);
    }
    for (int64_t c = 0; c < head_size; ++c) {
      Real sum = 0;
      for (int64_t j = 0; j < tokens; ++j) {
        sum += scores[static_cast<std::size_t>(j)] * operand(v[j * stride + c]);
      }
      context[i * context_stride + c] = sum / total;
    }
  }
}

template void plain_attention(const float*, const float*, const float*, int64_t, int64_t, int64_t, const float*,
                              int64_t, float*, int64_t, Precision);
template void plain_attention(const double*, const double*, const double*, int64_t, int64_t, int64_t, const float*,
                              int64_t, double*, int64_t, Precision);

}  // namespace squeezebert::test
