// The operation as callers see it: packed weights, and a product split over threads.
#pragma once
#include <array>
#include <cstdint>
#include <memory>

#include "../kernels/kernel_table.h"

namespace squeezebert {

// Packed for one instruction-set build. Knows the weight it was packed from by a sample of its elements, so that a
// caller can tell cheaply whether it still stands for that weight.
class PackedGroupedPointwiseConv {
 public:
  // weight: [groups * out_per_group, in_per_group], contiguous.
  PackedGroupedPointwiseConv(const KernelTable& kernels, const float* weight, int64_t groups, int64_t out_per_group,
                             int64_t in_per_group, int threads);

  // True if the sampled elements of `weight`, of the shape it was packed from, have the bits they had then. Catches
  // what PyTorch's version counter does not see (writes through .data), unless it touches unsampled elements alone.
  bool matches(const float* weight) const;

  // y[t, :] = activation(x[t, :] * weight^T + bias) for `tokens` rows. bias may be null. x and y must not overlap.
  void run(const float* x, int64_t x_row_stride, int64_t tokens, const float* bias, float* y, int64_t y_row_stride,
           Activation activation, int threads) const;

  const KernelTable& kernels() const { return kernels_; }
  int64_t groups() const { return groups_; }
  int64_t in_channels() const { return groups_ * in_per_group_; }
  int64_t out_channels() const { return groups_ * out_per_group_; }
  int64_t bytes() const { return size_ * static_cast<int64_t>(sizeof(float)); }

 private:
  static constexpr int kSamples = 64;
  std::array<uint32_t, kSamples> sample(const float* weight) const;

  struct Free {
    void operator()(float* p) const;
  };

  const KernelTable& kernels_;
  int64_t groups_, out_per_group_, in_per_group_;
  int64_t size_;
  std::unique_ptr<float[], Free> packed_;
  std::array<uint32_t, kSamples> sampled_;
};

}  // namespace squeezebert
