// Arrays in a kernel's scratch. Included by the instruction-set builds alone.
#pragma once
#include "vectors.h"

namespace {

// One array after the other, each at a cache line. Without scratch, what they need is counted.
struct ScratchCut {
  char* scratch;
  int64_t bytes = 0;

  template <class T>
  T* take(int64_t count) {
    char* start = scratch ? scratch + bytes : nullptr;
    bytes += round_up(count * static_cast<int64_t>(sizeof(T)), 64);
    return reinterpret_cast<T*>(start);
  }
};

}  // namespace
