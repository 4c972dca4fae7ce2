// Samples of tensors' elements, by which a caller can tell cheaply whether something made from the tensors still stands
// for them.
#pragma once
#include <cstdint>
#include <vector>

namespace squeezebert {

class Samples {
 public:
  // Remembers the middle of each of `count` equal stretches of values[0..size).
  void add(const float* values, int64_t size, int64_t count);

  // True if every sampled element has the bits it had then. The tensors must still be there. Catches what PyTorch's
  // version counter does not see (writes through .data), unless it touches unsampled elements alone.
  bool match() const;

 private:
  struct Element {
    const float* at;
    uint32_t bits;
  };
  std::vector<Element> elements_;
};

}  // namespace squeezebert
