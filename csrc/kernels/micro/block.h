// What a micro-kernel takes: some rows times one packed panel, or all of a segment, and where the end of that goes.
//
// A micro-kernel is a type Micro with
//
//     Format           what an operand and a weight are (formats.h)
//     kRows            rows of a block, at most
//     kPanelColumns    columns of a packed panel
//     kDeepestSegment, kHiddenChunk  what suits the caches: see PrecisionKernels
//     kRounds          the end of a block can round its results to bfloat16
//     kRowsStay        a block's rows meet all panels before the next block's do: it makes something of them first
//     kAllColumns      a block is of all the segment's columns, not of one panel
//     kDepthStep       values along K in one of its steps; a panel has whole steps, what lacks is zero
//     Micro(rows)      what a thread sets up for blocks of a product of so many rows
//     rows_of(rows)    how a product's rows are dealt out to blocks
//     run(block, lines)  the sums of a block and its end, which may wait for the next block ...
//     finish()         ... or for this
//     chains(n)        what it can do when nothing is loaded: KernelTable's multiply_add_chains
//
// Included by the instruction-set builds alone.
#pragma once
#include "../formats.h"
#include "../prefetch.h"

namespace {

using squeezebert::Activation;

// y = activation(x * panel + bias), or with y added before the bias.
template <class Format>
struct Block {
  const typename Format::Operand* x;
  int64_t x_row_stride, rows;
  int64_t x_plane_stride;
  int64_t rows_before;  // of x that lie before it and belong to the same product
  const typename Format::Weight* panel;
  int64_t width, depth;  // real columns and values along K
  Columns columns;
  bool accumulate;
  Activation activation;
  float* y;
  int64_t y_row_stride;
  // Where the result goes, rounded to bfloat16, in place of y; or null. `y` is still what is added.
  uint16_t* rounded;
  int64_t rounded_row_stride;
};

// Rows dealt out to blocks evenly: 9 rows are 5 and 4, not 8 and 1, which would leave the multiply-add units waiting.
struct EvenRows {
  int64_t begin, rows, count;
  EvenRows(Rows all, int64_t most)
      : begin(all.begin), rows(all.end - all.begin), count(divide_up(all.end - all.begin, most)) {}
  Rows operator[](int64_t t) const { return {begin + rows * t / count, begin + rows * (t + 1) / count}; }
};

}  // namespace
