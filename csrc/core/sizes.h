// Sizes that several operations are cut by, and the arithmetic of cutting.
#pragma once
#include <cstdint>

namespace squeezebert {

constexpr int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Calls visit(begin, end) for the stretches of [begin, end) between consecutive multiples of `size`.
template <class Visit>
void cut(int64_t begin, int64_t end, int64_t size, Visit visit) {
  while (begin < end) {
    const int64_t next = (begin / size + 1) * size;
    const int64_t stop = next < end ? next : end;
    visit(begin, stop);
    begin = stop;
  }
}

constexpr int64_t kCacheLine = 64;  // bytes

// Up to whole cache lines, so that no two threads write to one.
constexpr int64_t aligned(int64_t bytes) { return divide_up(bytes, kCacheLine) * kCacheLine; }

// Kernels read whole vectors: past the last bias, weight or operand there are as many bytes more that they may read,
// and have no use for. Four of the widest vectors; a panel has three.
constexpr int64_t kSlack = 256;
constexpr int64_t kSlackFloats = kSlack / static_cast<int64_t>(sizeof(float));

// Columns of a segment: whole panels of every build.
constexpr int64_t kSegmentColumns = 192;

// Hidden channels of a chunk: its weights, in training their gradients too, fit a second-level cache of 1 MB.
constexpr int64_t kHiddenColumns = 192;

// Rows that meet the same weights while those are in the second-level cache, and where so many would leave threads
// without work.
constexpr int64_t kBlockRows = 128, kSmallBlockRows = 32;

// Tasks that a thread should get, so that one that the machine holds up doesn't hold up the rest.
constexpr int64_t kTasksPerThread = 4;

// Of one task that goes over a tensor element by element.
constexpr int64_t kElementsPerTask = 16 * 1024;

}  // namespace squeezebert
