#include "grouped_pointwise_conv.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>

#include "row_operands.h"
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
// term, and those of the same channels follow each other. Results that are rounded are made in scratch, so that a sum
// is rounded once.
struct PackedGroupedPointwiseConv::Run {
  const PackedGroupedPointwiseConv& conv;
  const std::vector<Term>& terms;
  const bool sum;
  const int64_t tokens, y_row_stride;
  const Element element;
  int threads;
  const PrecisionKernels& kernels;
  const int64_t outputs, pieces;
  std::vector<RowOperands> inputs;
  bool by_row;
  int64_t row_blocks;
  std::vector<Segment> segments;
  std::vector<Product> products;  // as many a piece as there are inputs
  float* scratch = nullptr;       // [threads, the largest block's rows, kSegmentColumns]

  Run(const std::vector<Term>& all, bool is_sum, int64_t x_row_stride, int64_t rows, int64_t row_stride, Element of,
      int most_threads)
      : conv(*all.front().conv),
        terms(all),
        sum(is_sum),
        tokens(rows),
        y_row_stride(row_stride),
        element(of),
        threads(most_threads),
        kernels(conv.segments_.precision_kernels()),
        outputs(sum ? 1 : static_cast<int64_t>(terms.size())),
        pieces(static_cast<int64_t>(conv.pieces_.size()) * outputs) {
    int64_t bytes = 0;
    for (const Term& term : terms) {
      bytes += term.conv->segments_.bytes();
      if (!sum && !inputs.empty()) continue;
      inputs.emplace_back(conv.kernels(), conv.precision(), element, term.x, x_row_stride, tokens, conv.in_channels_,
                          conv.scales_);
    }
    by_row = bytes <= kCachedWeights;
    row_blocks = divide_up(tokens, by_row ? kCachedWeightsRows : kBlockRows);
    const int64_t work = tokens * conv.out_channels_ * (conv.in_channels_ / conv.groups_);
    if (work * static_cast<int64_t>(terms.size()) < kSerialWork) threads = 1;
    // Columns are split before tokens: two threads that share rows but not weights read each weight once.
    if (threads > 1 && row_blocks * pieces < kTasksPerThread * threads) {
      row_blocks = std::clamp(divide_up(threads, pieces), row_blocks, divide_up(tokens, kernels.block_rows));
    }
  }

  bool rounds() const { return element == Element::bfloat16; }
  Rows rows(int64_t block) const { return {tokens * block / row_blocks, tokens * (block + 1) / row_blocks}; }
  int64_t scratch_floats() const { return rounds() ? divide_up(tokens, row_blocks) * kSegmentColumns : 0; }
  int64_t bias_floats() const { return conv.out_channels_ + kSlackFloats; }
  int64_t bytes() const {
    return static_cast<int64_t>(inputs.size()) * inputs.front().bytes() +
           aligned(static_cast<int64_t>(terms.size()) * bias_floats() * 4) + threads * scratch_floats() * 4;
  }

  // memory: of as many `bytes`.
  void place(char* memory, Activation activation) {
    for (RowOperands& input : inputs) {
      input.place(memory);
      memory += input.bytes();
    }
    auto* biases = reinterpret_cast<float*>(memory);
    scratch = reinterpret_cast<float*>(memory + aligned(static_cast<int64_t>(terms.size()) * bias_floats() * 4));
    for (std::size_t i = 0; i < terms.size(); ++i) add_segments(i, biases + static_cast<int64_t>(i) * bias_floats());
    const int64_t channels = static_cast<int64_t>(inputs.size()) * conv.in_channels_ + outputs * conv.out_channels_;
    const bool far = tokens * channels * bytes_of(element) > kNearBytes;
    for (const Piece& piece : conv.pieces_) {
      for (std::size_t i = 0; i < terms.size(); ++i) {
        Product product{};
        product.x = inputs[sum ? i : 0].operands();
        product.segments = segments.data() + static_cast<int64_t>(i) * conv.segments_.size() + piece.first;
        product.segment_count = piece.count;
        product.activation = activation;
        product.far_x = far && (sum || i == 0);
        product.far_y = far && !rounds() && (!sum || i == 0);
        products.push_back(product);
      }
    }
  }

  void add_segments(std::size_t i, float* bias) {
    const float* given = terms[i].bias;
    const PackedSegments& packed = terms[i].conv->segments_;
    if (given) {
      std::memcpy(bias, given, static_cast<std::size_t>(conv.out_channels_) * sizeof(float));
      std::memset(bias + conv.out_channels_, 0, static_cast<std::size_t>(kSlack));
    }
    for (int64_t s = 0; s < packed.size(); ++s) {
      Segment segment = packed[s];
      segment.bias = segment.bias && given ? bias + segment.out_begin : nullptr;
      segment.accumulate = segment.accumulate || (sum && i > 0);
      segments.push_back(segment);
    }
  }

  void member(Team& team, int id) const {
    if (inputs.front().bytes() > 0) {
      team.run(id, row_blocks, [&](int64_t block, int) {
        for (const RowOperands& input : inputs) input.make(rows(block));
      });
    }
    team.run(id, row_blocks * pieces, [&](int64_t task, int who) {
      const int64_t block = by_row ? task / pieces : task % row_blocks;
      const int64_t piece = by_row ? task % pieces : task / row_blocks;
      const int64_t next = (task + threads) / row_blocks;  // the piece of the task this thread most likely takes
      run(rows(block), piece, by_row || next <= piece || next >= pieces ? -1 : next, scratch + who * scratch_floats());
    });
  }

  // next: the piece whose weights to fetch meanwhile, or -1.
  void run(Rows of_block, int64_t piece, int64_t next, float* sums) const {
    const auto of_piece = static_cast<int64_t>(inputs.size());
    const Product* const first = products.data() + piece * of_piece;
    const int64_t out_begin = first->segments->out_begin, columns = first->segments->columns;
    void* const y = terms[static_cast<std::size_t>(piece % outputs)].y;
    for (int64_t i = 0; i < of_piece; ++i) {
      Product product = first[i];
      if (next >= 0) product.next = products[static_cast<std::size_t>(next * of_piece + i)].segments;
      product.y = rounds() ? sums - of_block.begin * columns - out_begin : static_cast<float*>(y);
      product.y_row_stride = rounds() ? columns : y_row_stride;
      kernels.product(product, of_block);
    }
    if (!rounds()) return;
    auto* to = static_cast<uint16_t*>(y) + of_block.begin * y_row_stride + out_begin;
    conv.kernels().training.round(sums, columns, columns, {0, of_block.end - of_block.begin}, to, y_row_stride);
  }
};

void PackedGroupedPointwiseConv::check_same_form(const PackedGroupedPointwiseConv& other) const {
  if (&kernels() != &other.kernels() || precision() != other.precision() || groups_ != other.groups_ ||
      in_channels_ != other.in_channels_ || out_channels_ != other.out_channels_ || scales_ != other.scales_) {
    throw std::invalid_argument("convolutions of one call differ in build, precision or shape");
  }
}

void PackedGroupedPointwiseConv::run(const void* x, int64_t x_row_stride, int64_t tokens, const float* bias, void* y,
                                     int64_t y_row_stride, Activation activation, int threads, Element element) const {
  run_terms({{this, x, bias, y}}, false, x_row_stride, tokens, y_row_stride, activation, threads, element);
}

void PackedGroupedPointwiseConv::run_side_by_side(const std::vector<Term>& terms, int64_t tokens, int threads,
                                                  Element element) {
  const PackedGroupedPointwiseConv& first = *terms.at(0).conv;
  run_terms(terms, false, first.in_channels_, tokens, first.out_channels_, Activation::none, threads, element);
}

void PackedGroupedPointwiseConv::run_sum(const std::vector<Term>& terms, int64_t tokens, int threads, Element element) {
  const PackedGroupedPointwiseConv& first = *terms.at(0).conv;
  run_terms(terms, true, first.in_channels_, tokens, first.out_channels_, Activation::none, threads, element);
}

void PackedGroupedPointwiseConv::run_terms(const std::vector<Term>& terms, bool sum, int64_t x_row_stride,
                                           int64_t tokens, int64_t y_row_stride, Activation activation, int threads,
                                           Element element) {
  const PackedGroupedPointwiseConv& conv = *terms.front().conv;
  for (const Term& term : terms) conv.check_same_form(*term.conv);
  if (tokens <= 0 || conv.out_channels_ <= 0) return;
  Run run(terms, sum, x_row_stride, tokens, y_row_stride, element, threads);
  const Workspace workspace(run.bytes());
  run.place(workspace.data(), activation);
  run_team(run.threads, [&](Team& team, int id) { run.member(team, id); });
}

}  // namespace squeezebert
