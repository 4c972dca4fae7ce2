// The memory of one forward: activations of the largest part, and scratch for each thread.
#include <algorithm>

#include "run.h"

namespace squeezebert {

// Few rows of one large group: its two products are run one after the other, each over pieces of its columns.
int64_t Encoder::Run::hidden_rows(const Layer& layer) const {
  int64_t most = 0;
  for (const Part& part : parts) {
    if (divide_up(part.rows, kSmallBlockRows) * layer.output_groups < threads) most = std::max(most, part.rows);
  }
  return most;
}

void Encoder::Run::allocate() {
  int64_t rows = 0, longest = 0, hidden_floats = 0;
  for (const Part& part : parts) rows = std::max(rows, part.rows);
  for (const Sequence& sequence : sequences) longest = std::max(longest, sequence.rows);
  int64_t per_member = 0, x_scales = 1, y_scales = 1;
  const int64_t operand_row = channels * kernels.operand_bytes;
  for (const Layer& layer : encoder.layers_) {
    per_member = std::max(per_member, kernels.attention_scratch(longest, layer.head_size));
    for (const auto& chunks : layer.feed_forward) {
      FeedForward block{};
      block.chunks = chunks.data();
      block.chunk_count = static_cast<int64_t>(chunks.size());
      per_member = std::max(per_member, kernels.feed_forward_scratch(block));
    }
    hidden_floats = std::max(hidden_floats, hidden_rows(layer) * layer.hidden);
    per_member = std::max(per_member, operand_memory(kBlockRows, channels, layer.post_attention_scales));
    per_member = std::max(per_member, operand_memory(hidden_rows(layer), layer.hidden, 1));
    x_scales = std::max(x_scales, layer.attention_scales);
    y_scales = std::max(y_scales, layer.feed_forward_scales);
  }
  per_member = aligned(per_member + kSlack);
  int64_t bytes = 0;
  const auto take = [&](int64_t size) {
    const int64_t offset = bytes;
    bytes += aligned(size);
    return offset;
  };
  const int64_t row_bytes = rows * channels * 4;
  const int64_t x_at = take(row_bytes), context_at = take(row_bytes), y_at = take(row_bytes);
  const int64_t hidden_at = take(hidden_floats * 4);
  const int64_t x_operands_at = take(rows * operand_row + kSlack), y_operands_at = take(rows * operand_row + kSlack);
  const int64_t x_scale_at = take(rows * x_scales * 4), y_scale_at = take(rows * y_scales * 4);
  const int64_t scratch_at = take(per_member * threads);
  workspace = std::make_unique<Workspace>(bytes);
  char* base = workspace->data();
  const auto floats = [&](int64_t offset) { return reinterpret_cast<float*>(base + offset); };
  x = floats(x_at);
  context = floats(context_at);
  y = floats(y_at);
  if (hidden_floats > 0) hidden = floats(hidden_at);
  const bool made = kernels.operand_bytes > 0;
  x_operands = {made ? base + x_operands_at : nullptr, channels, floats(x_scale_at), 1, channels};
  y_operands = {made ? base + y_operands_at : nullptr, channels, floats(y_scale_at), 1, channels};
  for (int t = 0; t < threads; ++t) scratch.push_back(base + scratch_at + t * per_member);
  const int64_t blocks = divide_up(rows, kSmallBlockRows);
  done.reset(new std::atomic<int>[static_cast<std::size_t>(blocks)]);
  for (int64_t b = 0; b < blocks; ++b) done[static_cast<std::size_t>(b)].store(0, std::memory_order_relaxed);
}

// The operands of rows in `rows`, made beforehand or the rows themselves.
Operands Encoder::Run::operands_of(const Operands& made, float* rows, int64_t scales) const {
  Operands operands = made;
  operands.groups = scales;
  if (!made.data) operands.data = rows;
  return operands;
}

// A task's own operands: the rows of operands, and behind them their scales.
int64_t Encoder::Run::operand_memory(int64_t rows, int64_t width, int64_t scales) const {
  return aligned(rows * width * kernels.operand_bytes + kSlack) + aligned(rows * scales * 4);
}

Operands Encoder::Run::operands_in(char* memory, int64_t rows, int64_t width, int64_t scales) const {
  char* scale = memory + aligned(rows * width * kernels.operand_bytes + kSlack);
  return {memory, width, reinterpret_cast<float*>(scale), scales, width};
}

}  // namespace squeezebert
