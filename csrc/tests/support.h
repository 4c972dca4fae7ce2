// What the kernel tests share: guarded memory, reproducible numbers, and the plain loops that every build is held to.
#pragma once
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "../core/instruction_sets.h"

namespace squeezebert::test {

constexpr Activation kActivations[] = {Activation::none, Activation::gelu, Activation::gelu_tanh, Activation::relu,
                                       Activation::silu};

// Floats between two pages that can't be touched. They end where the second page begins (`end`), so that reading or
// writing one float too many faults, or begin where the first page ends (`begin`).
class GuardedFloats {
 public:
  enum Edge { begin, end };
  GuardedFloats(int64_t size, Edge edge);
  ~GuardedFloats();
  GuardedFloats(const GuardedFloats&) = delete;
  GuardedFloats& operator=(const GuardedFloats&) = delete;

  float* data() const { return data_; }
  int64_t size() const { return size_; }
  float& operator[](int64_t i) const { return data_[i]; }
  void fill(float value);

 private:
  char* mapping_;
  std::size_t mapped_bytes_;
  float* data_;
  int64_t size_;
};

// One product: its shape, its numbers, and what plain loops make of it. Columns between rows hold NaN.
struct Product {
  struct Shape {
    int64_t tokens, groups, in_per_group, out_per_group;
    int64_t x_padding = 0, y_padding = 0;  // columns between the end of a row and the next
    bool bias = true;

    int64_t in_channels() const { return groups * in_per_group; }
    int64_t out_channels() const { return groups * out_per_group; }
    int64_t x_row_stride() const { return in_channels() + x_padding; }
    int64_t y_row_stride() const { return out_channels() + y_padding; }
    std::string text() const;
  };

  explicit Product(const Shape& shape, GuardedFloats::Edge edge = GuardedFloats::end);

  const float* bias_or_null() const { return shape.bias ? bias.data() : nullptr; }

  // [tokens, out_channels], in the precision of `Real`, sums in order, bias last.
  template <typename Real>
  std::vector<Real> plain_loop() const;

  // What `kernels` make of it, in a buffer of tokens rows y_row_stride apart that held NaN before.
  void run(const KernelTable& kernels, Activation activation, int threads, GuardedFloats& y) const;
  int64_t y_size() const { return rows_size(shape.tokens, shape.out_channels(), shape.y_row_stride()); }

  // A last row ends with its last channel: what would pad it is not there.
  static int64_t rows_size(int64_t rows, int64_t width, int64_t stride) {
    return rows > 0 ? (rows - 1) * stride + width : 0;
  }

  Shape shape;
  GuardedFloats x, weight, bias;
};

// PyTorch's formulas.
template <typename Real>
Real activate(Activation activation, Real x);

std::string name_of(Activation activation);
inline std::string name_of(const KernelTable& kernels) { return kernels.name; }

// Uniform in [-1, 1).
void fill_random(float* values, int64_t count, uint32_t seed);

inline uint32_t bits_of(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

}  // namespace squeezebert::test
