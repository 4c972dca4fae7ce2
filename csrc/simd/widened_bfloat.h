// bfloat16 where vectors have no instruction for it: products of two are exact in float32, so float32 multiply-adds on
// widened weights serve. Included by vectors that widen a whole vector of bfloat16 numbers at once.
#pragma once

namespace {

using BfloatOperand = float;
using BfloatWeights = Vec;
constexpr int kBfloatStep = 1, kBfloatTurns = 1;
constexpr int kBfloatTileRows = kTileRows, kBfloatPanelVectors = kPanelVectors;
inline Vec load_bfloat_weights(const uint16_t* p, int) { return load(p); }
inline Vec multiply_add_bfloat(const BfloatOperand* one, Vec weights, Vec sum, int) {
  return multiply_add(*one, weights, sum);
}

}  // namespace
