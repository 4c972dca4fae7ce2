// Whether tensors are still what something was made from, where PyTorch's version counter doesn't see a write (through
// .data, or another tensor's view). Reading all of them at every call would take as long as a short forward. So each
// call compares some elements of every tensor, which notices what changes a tensor as a whole, and the checksums of
// some spans, the next in turn, a share of all that grows with the call's own work: a change of any element shows in
// time.
#pragma once
#include <atomic>
#include <cstdint>
#include <vector>

namespace squeezebert {

class Fingerprint {
 public:
  struct Tensor {
    const float* values;
    int64_t size;
    int64_t span;  // elements that share a checksum; the last span may have fewer; 0: no checksums
  };

  // All spans have been compared once calls of `match` add up to this many rows of input.
  static constexpr int64_t kRowsForAll = 16384;
  // Compared by every call, however short: a microsecond.
  static constexpr int64_t kLeastBytes = 16 << 10;

  // Remembers the middle of each of `samples` equal stretches of every tensor, and the checksum of every span.
  Fingerprint(const std::vector<Tensor>& tensors, int64_t samples, int threads);

  // Whether all samples have the bits they had, and so have the next spans, a share of `rows` in kRowsForAll. Safe for
  // several callers at once; the tensors must be there.
  bool match(int64_t rows, int threads);

  // Whether these spans, counted from the first tensor's first, have the bits they had. False for one that isn't
  // there.
  bool spans_match(const int64_t* indices, int64_t count) const;

 private:
  struct Element {
    const float* at;
    uint32_t bits;
  };
  struct Span {
    const float* at;
    int64_t size;
    uint64_t checksum;
  };

  std::vector<Element> elements_;
  std::vector<Span> spans_;
  int64_t bytes_ = 0;
  std::atomic<int64_t> next_{0};
};

}  // namespace squeezebert
