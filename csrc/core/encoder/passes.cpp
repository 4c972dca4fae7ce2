// The passes of one layer, their tasks, and the rows' way in and out.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "run.h"

namespace squeezebert {

void Encoder::Run::load_rows(const Part& part, Team& team, int id) {
  const auto first = static_cast<int64_t>(part.first), count = static_cast<int64_t>(part.end - part.first);
  const Operands made = operands_of(x_operands, x, encoder.layers_.front().attention_scales);
  team.run(id, count, [&](int64_t i, int) {
    const Sequence& sequence = sequences[static_cast<std::size_t>(first + i)];
    const float* from = input.x + sequence.index * input.sequence_stride;
    for (int64_t r = 0; r < sequence.rows; ++r) {
      const int64_t token = sequence.tokens ? sequence.tokens[r] : r;
      std::memcpy(x + (sequence.row + r) * channels, from + token * input.row_stride,
                  static_cast<std::size_t>(channels) * sizeof(float));
    }
    if (x_operands.data) kernels.prepare(x, channels, {sequence.row, sequence.row + sequence.rows}, made);
  });
}

void Encoder::Run::attention(const Layer& layer, const Part& part, Team& team, int id) {
  const auto first = static_cast<int64_t>(part.first), count = static_cast<int64_t>(part.end - part.first);
  // Heads outside: threads meet the weights of one head with sequence after sequence.
  team.run(id, count * layer.heads, [&](int64_t task, int member) {
    const int64_t head = task / count;
    const Sequence& sequence = sequences[static_cast<std::size_t>(first + task % count)];
    const Piece& piece = layer.head_pieces[static_cast<std::size_t>(head)];
    Attention a{};
    a.x = operands_of(x_operands, x, layer.attention_scales);
    a.segments = encoder.segments_.data() + piece.first;
    a.segment_count = piece.count;
    a.head_size = layer.head_size;
    a.scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(layer.head_size)));
    a.row_begin = sequence.row;
    a.rows = sequence.rows;
    a.keys = sequence.keys;
    a.key_count = sequence.key_count;
    a.mask = sequence.mask ? sequence.mask + head * input.mask_head_stride : nullptr;
    a.mask_row_stride = input.mask_query_stride;
    a.context = context + head * layer.head_size;
    a.context_row_stride = channels;
    if (kernels.rounds_context) {
      a.rounded_context = reinterpret_cast<uint16_t*>(context) + head * layer.head_size;
      a.rounded_context_row_stride = channels;
    }
    const int64_t next = task + threads;  // the one that this thread most likely takes
    if (next >= count * layer.heads) {
      a.next = post_attention_segment(layer, next - count * layer.heads);
    } else if (next / count != head) {
      a.next = head_segment(layer, next / count);
    }
    kernels.attention(a, scratch[static_cast<std::size_t>(member)]);
  });
}

// The first segment of a head, of a piece of the post-attention product and of a group of the feed-forward block.
const Segment* Encoder::Run::head_segment(const Layer& layer, int64_t head) const {
  const auto last = static_cast<int64_t>(layer.head_pieces.size()) - 1;
  return encoder.segments_.data() + layer.head_pieces[static_cast<std::size_t>(std::min(head, last))].first;
}
const Segment* Encoder::Run::post_attention_segment(const Layer& layer, int64_t piece) const {
  const auto last = static_cast<int64_t>(layer.post_attention.size()) - 1;
  return encoder.segments_.data() + layer.post_attention[static_cast<std::size_t>(std::min(piece, last))].first;
}
const Segment* Encoder::Run::feed_forward_segment(const Layer& layer, int64_t group) const {
  return layer.feed_forward[static_cast<std::size_t>(group % layer.output_groups)].front().in;
}

// How many blocks rows are cut into, whose columns are at most `pieces` tasks. More blocks than the caches ask for
// where threads would lack work: one of several blocks is normalised while others are computed, and less is left for
// the end.
int64_t Encoder::Run::row_blocks(int64_t rows, int64_t pieces) const {
  const int64_t wanted = kTasksPerThread * threads, blocks = divide_up(rows, kBlockRows);
  if (threads == 1 || blocks * pieces >= wanted) return blocks;
  const int64_t more = std::clamp(divide_up(wanted, pieces), blocks, divide_up(rows, 2 * kSmallBlockRows));
  return more * pieces < threads ? divide_up(rows, kSmallBlockRows) : more;
}

// Cut where the kernels' own blocks end: a block of fewer rows may take as long as a whole one.
Rows Encoder::Run::rows_of_block(int64_t rows, int64_t block, int64_t blocks) const {
  const int64_t whole = divide_up(rows, kernels.block_rows);
  const auto begin = [&](int64_t b) { return std::min(rows, whole * b / blocks * kernels.block_rows); };
  return {begin(block), begin(block + 1)};
}

// Of the tasks that compute a block of rows, the last to be done normalises it.
void Encoder::Run::finish_task(int64_t block, int64_t tasks, const AddLayerNorm& norm, Rows rows) {
  if (tasks > 1) {
    std::atomic<int>& of_block = done[static_cast<std::size_t>(block)];
    if (of_block.fetch_add(1, std::memory_order_acq_rel) + 1 < tasks) return;
    of_block.store(0, std::memory_order_relaxed);
  }
  kernels.add_layer_norm(norm, rows);
}

void Encoder::Run::post_attention(const Layer& layer, const Part& part, Team& team, int id) {
  const auto pieces = static_cast<int64_t>(layer.post_attention.size());
  const int64_t blocks = row_blocks(part.rows, pieces);
  // A block of rows is as many tasks as the pieces of its columns are shared out among.
  const int64_t wanted = kTasksPerThread * threads;
  const int64_t shares = threads == 1 ? 1 : std::clamp<int64_t>(divide_up(wanted, blocks), 1, pieces);
  const AddLayerNorm norm{layer.post_attention_norm.weight.data(),
                          layer.post_attention_norm.bias.data(),
                          layer.post_attention_norm.eps,
                          channels,
                          x,
                          channels,
                          y,
                          channels,
                          {y_operands.data, channels, y_operands.scale, layer.feed_forward_scales, channels}};
  team.run(id, blocks * shares, [&](int64_t task, int member) {
    const int64_t block = task / shares, share = task % shares;
    const Rows rows = rows_of_block(part.rows, block, blocks);
    Product product{};
    product.x = {context, channels, nullptr, layer.post_attention_scales, channels};
    Rows of_operands = rows;
    if (kernels.operand_bytes > 0 && !kernels.rounds_context) {
      of_operands = {0, rows.end - rows.begin};
      product.x = operands_in(scratch[static_cast<std::size_t>(member)], of_operands.end, channels,
                              layer.post_attention_scales);
      kernels.prepare(context + rows.begin * channels, channels, of_operands, product.x);
    }
    const Piece& from = layer.post_attention[static_cast<std::size_t>(pieces * share / shares)];
    const Piece& to = layer.post_attention[static_cast<std::size_t>(pieces * (share + 1) / shares - 1)];
    product.segments = encoder.segments_.data() + from.first;
    product.segment_count = to.first + to.count - from.first;
    product.y = y + (rows.begin - of_operands.begin) * channels;
    product.y_row_stride = channels;
    const int64_t next = task + threads;
    product.next = next < blocks * shares ? post_attention_segment(layer, pieces * (next % shares) / shares)
                                          : feed_forward_segment(layer, next - blocks * shares);
    kernels.product(product, of_operands);
    finish_task(block, shares, norm, rows);
  });
}

void Encoder::Run::feed_forward(const Layer& layer, const Layer* next, const Part& part, Team& team, int id) {
  const AddLayerNorm norm{
      layer.output_norm.weight.data(),
      layer.output_norm.bias.data(),
      layer.output_norm.eps,
      channels,
      y,
      channels,
      x,
      channels,
      {next ? x_operands.data : nullptr, channels, x_operands.scale, next ? next->attention_scales : 1, channels}};
  if (divide_up(part.rows, kSmallBlockRows) * layer.output_groups >= threads) {
    feed_forward_by_groups(layer, next, part, team, id, norm);
  } else {
    feed_forward_by_columns(layer, part, team, id, norm);
  }
}

void Encoder::Run::feed_forward_by_groups(const Layer& layer, const Layer* next, const Part& part, Team& team, int id,
                                          const AddLayerNorm& norm) {
  const auto sequence_count = static_cast<int64_t>(part.end - part.first);
  const int64_t blocks = row_blocks(part.rows, layer.output_groups);
  team.run(id, blocks * layer.output_groups, [&](int64_t task, int member) {
    const int64_t block = task / layer.output_groups, group = task % layer.output_groups;
    const Rows rows = rows_of_block(part.rows, block, blocks);
    const auto& chunks = layer.feed_forward[static_cast<std::size_t>(group)];
    const int64_t following = task + threads - blocks * layer.output_groups;
    const Segment* first = following < 0 ? feed_forward_segment(layer, task + threads)
                           : next        ? head_segment(*next, following / sequence_count)
                                         : nullptr;
    const FeedForward pass{operands_of(y_operands, y, layer.feed_forward_scales),
                           chunks.data(),
                           static_cast<int64_t>(chunks.size()),
                           layer.activation,
                           x,
                           channels,
                           first};
    kernels.feed_forward(pass, rows, scratch[static_cast<std::size_t>(member)]);
    finish_task(block, layer.output_groups, norm, rows);
  });
}

// For few rows of few groups: the two products one after the other, each cut by columns. The same segments in the same
// order along K, so the same bits.
void Encoder::Run::feed_forward_by_columns(const Layer& layer, const Part& part, Team& team, int id,
                                           const AddLayerNorm& norm) {
  const Operands operands = operands_of(y_operands, y, layer.feed_forward_scales);
  std::vector<const FeedForward::Chunk*> chunks;
  for (const auto& group : layer.feed_forward) {
    for (const FeedForward::Chunk& chunk : group) chunks.push_back(&chunk);
  }
  team.run(id, static_cast<int64_t>(chunks.size()), [&](int64_t task, int) {
    const FeedForward::Chunk& chunk = *chunks[static_cast<std::size_t>(task)];
    kernels.product({operands, chunk.in, chunk.in_count, hidden, layer.hidden, layer.activation, nullptr},
                    {0, part.rows});
  });
  const auto pieces = static_cast<int64_t>(layer.output_pieces.size());
  team.run(id, pieces, [&](int64_t task, int member) {
    const std::vector<Segment>& piece = layer.output_pieces[static_cast<std::size_t>(task)];
    Product product{{hidden, layer.hidden, nullptr, 1, layer.hidden},
                    piece.data(),
                    static_cast<int64_t>(piece.size()),
                    x,
                    channels,
                    Activation::none,
                    nullptr};
    if (kernels.operand_bytes == 0) {
      kernels.product(product, {0, part.rows});
      return;
    }
    // A chunk's operands have scales of their own, as in the one pass.
    for (Segment segment : piece) {
      product.x = operands_in(scratch[static_cast<std::size_t>(member)], part.rows, segment.depth, 1);
      kernels.prepare(hidden + segment.in_begin, layer.hidden, {0, part.rows}, product.x);
      segment.in_begin = 0;
      product.segments = &segment;
      product.segment_count = 1;
      kernels.product(product, {0, part.rows});
    }
  });
  const int64_t blocks = divide_up(part.rows, kSmallBlockRows);
  team.run(id, blocks, [&](int64_t block, int) {
    kernels.add_layer_norm(norm, {part.rows * block / blocks, part.rows * (block + 1) / blocks});
  });
}

void Encoder::Run::store_rows(const Part& part, float* target, Team& team, int id) {
  const auto first = static_cast<int64_t>(part.first), count = static_cast<int64_t>(part.end - part.first);
  team.run(id, count, [&](int64_t i, int) {
    const Sequence& sequence = sequences[static_cast<std::size_t>(first + i)];
    float* to = target + sequence.index * input.tokens * channels;
    if (!sequence.tokens) {
      std::memcpy(to, x + sequence.row * channels, static_cast<std::size_t>(sequence.rows * channels) * sizeof(float));
      return;
    }
    int64_t token = 0;
    const auto row_bytes = static_cast<std::size_t>(channels) * sizeof(float);
    for (int64_t r = 0; r < sequence.rows; ++r, ++token) {
      for (; token < sequence.tokens[r]; ++token) std::memset(to + token * channels, 0, row_bytes);
      std::memcpy(to + token * channels, x + (sequence.row + r) * channels, row_bytes);
    }
    for (; token < input.tokens; ++token) std::memset(to + token * channels, 0, row_bytes);
  });
}

}  // namespace squeezebert
