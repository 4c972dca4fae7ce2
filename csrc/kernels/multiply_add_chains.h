// The arithmetic limit: independent multiply-adds on registers, nothing loaded. Included by the builds alone.
#pragma once
#include "kernel_table.h"

namespace {

inline int64_t multiply_add_chains(int64_t iterations) {
  constexpr int kChains = 12;  // more than latency times units of any CPU so far (4 cycles x 2), and fits 16 registers
  Vec sum[kChains];
#pragma GCC unroll 16
  for (int i = 0; i < kChains; ++i) sum[i] = broadcast(static_cast<float>(i));
  const Vec factor = broadcast(0.999f), term = broadcast(0.001f);
  for (int64_t n = 0; n < iterations; ++n) {
#pragma GCC unroll 16
    for (int i = 0; i < kChains; ++i) sum[i] = multiply_add(sum[i], factor, term);
  }
  Vec total = sum[0];
#pragma GCC unroll 16
  for (int i = 1; i < kChains; ++i) total = total + sum[i];
  float lanes[kLanes];
  store(lanes, total);
  volatile float used = lanes[0];  // or the compiler drops the loop
  (void)used;
  return iterations * kChains * kLanes * 2;
}

}  // namespace
