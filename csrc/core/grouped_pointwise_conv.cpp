#include "grouped_pointwise_conv.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>

#include "sizes.h"
#include "thread_team.h"
#include "workspace.h"

namespace squeezebert {
namespace {

// Two orders of the tasks. Weights that fit into the second-level cache stay there, whatever the order; then a task is
// a short stretch of rows, and the groups of the same rows follow each other, so that whole rows of x and y are touched
// while they are near. Larger weights are used for many rows while some of them are in that cache: the rows of one
// group follow each other. Each order was the faster one for its kind of weights on a 2-core Ice Lake server with
// 1.25 MB of second-level cache a core.
constexpr int64_t kCachedWeights = 640 * 1024;  // bytes
constexpr int64_t kCachedWeightsRows = 32;      // of a block then; otherwise kBlockRows
// Tensors that may be found in a second-level cache.
constexpr int64_t kNearBytes = 1024 * 1024;
// Below this many multiply-adds a second thread costs more than it brings.
constexpr int64_t kSerialWork = 300'000;

}  // namespace

PackedGroupedPointwiseConv::PackedGroupedPointwiseConv(const KernelTable& kernels, Precision precision,
                                                       const ConvWeights& weights, int threads)
    : segments_(kernels, precision),
      groups_(weights.groups),
      scales_(weights.groups * weights.scales_per_group),
      in_channels_(weights.in_channels),
      out_channels_(weights.out_channels) {
  ConvWeights conv = weights;
  conv.bias = nullptr;
  pieces_ = segments_.add(conv);
  segments_.pack(threads);
}

// A task is a block of rows and a piece: in a sum, that of all terms, whose products follow each other; else of one
// term, and those of the same channels follow each other.
struct PackedGroupedPointwiseConv::Run {
  const PrecisionKernels* kernels;
  struct Input {
    const float* x;  // the rows that products take as `operands`
    Operands operands;
  };
  std::vector<Input> inputs;
  int64_t x_row_stride;
  std::vector<Segment> segments;
  std::vector<Product> products;
  int64_t products_of_piece;
  int64_t tokens, row_blocks, pieces;
  bool by_row;
  int threads;

  Rows rows(int64_t block) const { return {tokens * block / row_blocks, tokens * (block + 1) / row_blocks}; }

  void member(Team& team, int id) {
    if (kernels->operand_bytes > 0) {
      team.run(id, row_blocks, [&](int64_t block, int) {
        for (const Input& input : inputs) kernels->prepare(input.x, x_row_stride, rows(block), input.operands);
      });
    }
    team.run(id, row_blocks * pieces, [&](int64_t task, int) {
      const int64_t block = by_row ? task / pieces : task % row_blocks;
      const int64_t piece = by_row ? task % pieces : task / row_blocks;
      const Product* const first = products.data() + piece * products_of_piece;
      const int64_t next = (task + threads) / row_blocks;  // the piece of the task this thread most likely takes
      for (int64_t i = 0; i < products_of_piece; ++i) {
        Product product = first[i];
        if (!by_row && next > piece && next < pieces) product.next = products[next * products_of_piece + i].segments;
        kernels->product(product, rows(block));
      }
    });
  }
};

void PackedGroupedPointwiseConv::check_same_form(const PackedGroupedPointwiseConv& other) const {
  if (&kernels() != &other.kernels() || precision() != other.precision() || groups_ != other.groups_ ||
      in_channels_ != other.in_channels_ || out_channels_ != other.out_channels_ || scales_ != other.scales_) {
    throw std::invalid_argument("convolutions of one call differ in build, precision or shape");
  }
}

void PackedGroupedPointwiseConv::run(const float* x, int64_t x_row_stride, int64_t tokens, const float* bias, float* y,
                                     int64_t y_row_stride, Activation activation, int threads) const {
  run_terms({{this, x, bias, y}}, false, x_row_stride, tokens, y_row_stride, activation, threads);
}

void PackedGroupedPointwiseConv::run_side_by_side(const std::vector<Term>& terms, int64_t tokens, int threads) {
  const PackedGroupedPointwiseConv& first = *terms.at(0).conv;
  run_terms(terms, false, first.in_channels_, tokens, first.out_channels_, Activation::none, threads);
}

void PackedGroupedPointwiseConv::run_sum(const std::vector<Term>& terms, int64_t tokens, int threads) {
  const PackedGroupedPointwiseConv& first = *terms.at(0).conv;
  run_terms(terms, true, first.in_channels_, tokens, first.out_channels_, Activation::none, threads);
}

void PackedGroupedPointwiseConv::run_terms(const std::vector<Term>& terms, bool sum, int64_t x_row_stride,
                                           int64_t tokens, int64_t y_row_stride, Activation activation, int threads) {
  const PackedGroupedPointwiseConv& conv = *terms.front().conv;
  for (const Term& term : terms) conv.check_same_form(*term.conv);
  if (tokens <= 0 || conv.out_channels_ <= 0) return;
  const auto count = static_cast<int64_t>(terms.size()), inputs = sum ? count : 1, outputs = sum ? 1 : count;
  const PrecisionKernels& kernels = conv.segments_.precision_kernels();
  const int64_t operand_bytes = aligned(tokens * conv.in_channels_ * kernels.operand_bytes + kSlack);
  const int64_t scale_bytes = aligned(kernels.operand_bytes > 0 ? tokens * conv.scales_ * 4 : 0);
  const int64_t bias_floats = conv.out_channels_ + kSlackFloats;
  const int64_t input_bytes = operand_bytes + scale_bytes;
  const Workspace workspace(inputs * input_bytes + count * bias_floats * 4);
  auto* biases = reinterpret_cast<float*>(workspace.data() + inputs * input_bytes);

  Run run{};
  run.kernels = &kernels;
  run.x_row_stride = x_row_stride;
  for (int64_t i = 0; i < inputs; ++i) {
    const float* x = terms[static_cast<std::size_t>(i)].x;
    Operands operands{const_cast<float*>(x), x_row_stride, nullptr, conv.scales_, conv.in_channels_};
    if (kernels.operand_bytes > 0) {
      char* memory = workspace.data() + i * input_bytes;
      operands = {memory, conv.in_channels_, reinterpret_cast<float*>(memory + operand_bytes), conv.scales_,
                  conv.in_channels_};
    }
    run.inputs.push_back({x, operands});
  }
  int64_t bytes = 0;
  for (int64_t i = 0; i < count; ++i) {
    const Term& term = terms[static_cast<std::size_t>(i)];
    const PackedSegments& packed = term.conv->segments_;
    bytes += packed.bytes();
    float* bias = biases + i * bias_floats;
    if (term.bias) {
      std::memcpy(bias, term.bias, static_cast<std::size_t>(conv.out_channels_) * sizeof(float));
      std::memset(bias + conv.out_channels_, 0, static_cast<std::size_t>(kSlack));
    }
    for (int64_t s = 0; s < packed.size(); ++s) {
      Segment segment = packed[s];
      segment.bias = segment.bias && term.bias ? bias + segment.out_begin : nullptr;
      segment.accumulate = segment.accumulate || (sum && i > 0);
      run.segments.push_back(segment);
    }
  }
  const bool far = tokens * (inputs * conv.in_channels_ + outputs * conv.out_channels_) * 4 > kNearBytes;
  for (const Piece& piece : conv.pieces_) {
    for (int64_t i = 0; i < count; ++i) {
      const Term& term = terms[static_cast<std::size_t>(i)];
      Product product{};
      product.x = run.inputs[static_cast<std::size_t>(sum ? i : 0)].operands;
      product.segments = run.segments.data() + i * conv.segments_.size() + piece.first;
      product.segment_count = piece.count;
      product.y = sum ? terms.front().y : term.y;
      product.y_row_stride = y_row_stride;
      product.activation = activation;
      product.far_x = far && (sum || i == 0);
      product.far_y = far && (!sum || i == 0);
      run.products.push_back(product);
    }
  }
  run.products_of_piece = inputs;
  run.pieces = static_cast<int64_t>(conv.pieces_.size()) * outputs;
  run.tokens = tokens;
  run.by_row = bytes <= kCachedWeights;
  run.row_blocks = divide_up(tokens, run.by_row ? kCachedWeightsRows : kBlockRows);
  const int64_t work = tokens * conv.out_channels_ * (conv.in_channels_ / conv.groups_) * count;
  if (work < kSerialWork) threads = 1;
  // Columns are split before tokens: two threads that share rows but not weights read each weight once.
  if (threads > 1 && run.row_blocks * run.pieces < kTasksPerThread * threads) {
    run.row_blocks = std::clamp(divide_up(threads, run.pieces), run.row_blocks, divide_up(tokens, kernels.block_rows));
  }
  run.threads = threads;
  run_team(threads, [&](Team& team, int id) { run.member(team, id); });
}

}  // namespace squeezebert
