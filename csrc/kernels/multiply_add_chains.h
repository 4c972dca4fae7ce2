// The arithmetic limit: independent multiply-adds on registers, nothing loaded. Included by the builds alone.
#pragma once
#include "formats.h"

namespace {

template <class Format>
inline int64_t multiply_add_chains(int64_t iterations) {
  constexpr int kChains = 12;  // more than latency times units of any CPU so far (4 cycles x 2), and fits 16 registers
  typename Format::Weight packed[kLanes * Format::kStep] = {};
  volatile char unknown = 1;
  for (auto& weight : packed) weight = Format::pack(static_cast<typename Format::Source>(unknown));
  typename Format::Weights weights[Format::kTurns];
  for (int turn = 0; turn < Format::kTurns; ++turn) weights[turn] = Format::load_weights(packed, turn);
  const int32_t starts[kLanes] = {};
  typename Format::Sum sum[kChains];
#pragma GCC unroll 16
  for (int i = 0; i < kChains; ++i) {  // each from another number, or a compiler that sees equal chains keeps one
    Columns columns{};
    columns.start = starts;
    typename Format::Operand first[Format::kStep] = {};
    first[0] = static_cast<typename Format::Operand>(unknown + i);
    sum[i] = Format::multiply_add(first, weights[0], Format::start(columns, 0), 0);
  }
  typename Format::Operand operand[Format::kStep] = {};
  for (int64_t n = 0; n < iterations; ++n) {
    __asm__ volatile("" : : "r"(operand) : "memory");  // or a compiler that sees plain sums folds the loop
#pragma GCC unroll 2
    for (int turn = 0; turn < Format::kTurns; ++turn) {
#pragma GCC unroll 16
      for (int i = 0; i < kChains; ++i) sum[i] = Format::multiply_add(operand, weights[turn], sum[i], turn);
    }
  }
  const float ones[kLanes] = {};
  Columns columns{};
  columns.scale = columns.row_scale = ones;
  Vec total = broadcast(0.0f);
#pragma GCC unroll 16
  for (int i = 0; i < kChains; ++i) total = total + Format::finish(sum[i], Format::scale_of(columns, 0), columns, 0);
  float lanes[kLanes];
  store(lanes, total);
  volatile float used = lanes[0];  // or the compiler drops the loop
  (void)used;
  return iterations * kChains * kLanes * Format::kStep * 2;
}

}  // namespace
