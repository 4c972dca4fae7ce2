#include "encoder.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <limits>

#include "thread_team.h"

namespace squeezebert {
namespace {

using Strip = PackedSegments::Strip;

// A batch is run in parts of whole sequences, all layers of one part before the next: the activations of a part stay in
// the caches from pass to pass, and the scratch memory does not grow with the batch.
constexpr int64_t kPartTokensPerThread = 1024;
constexpr int64_t kBlockRows = 128;      // that meet a weight block while it is in the second-level cache
constexpr int64_t kSmallBlockRows = 32;  // where 128 would leave threads without work
constexpr int64_t kTasksPerThread = 4;   // so that a thread that the machine holds up doesn't hold up the rest
constexpr int64_t kHiddenColumns = 192;
// Below this many multiply-adds of a layer a second thread costs more than it brings.
constexpr int64_t kSerialWork = 200'000;

int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }
int64_t aligned(int64_t bytes) { return divide_up(bytes, 64) * 64; }

bool is_lowest(float v) { return v == std::numeric_limits<float>::lowest() || v == -INFINITY; }

}  // namespace

// ---- packing

Encoder::Piece Encoder::add_rows(const std::vector<Strip>& strips, int64_t in_begin, int64_t out_begin) {
  const int64_t first = segments_.add(strips, in_begin, out_begin);
  return {first, segments_.size() - first};
}

// A head's q, k and v stand side by side. Where they read the same inputs, which is where group counts are equal and a
// head lies within a group, they are one product.
void Encoder::add_attention(const LayerWeights& w, Layer& layer) {
  const int64_t size = layer.head_size, lanes = kernels().lanes, padded = divide_up(size, lanes) * lanes;
  const ConvWeights* projections[] = {&w.query, &w.key, &w.value};
  const bool together = w.query.groups == w.key.groups && w.key.groups == w.value.groups;
  for (int64_t head = 0; head < layer.heads; ++head) {
    const int64_t begin = head * size, end = begin + size, first = segments_.size();
    const int64_t group_size = w.query.out_per_group();
    if (together && begin / group_size == (end - 1) / group_size) {
      std::vector<Strip> strips;
      for (int64_t p = 0; p < 3; ++p) strips.push_back({*projections[p], begin, size, p * padded});
      add_rows(strips, begin / group_size * w.query.in_per_group(), 0);
    } else {
      for (int64_t p = 0; p < 3; ++p) {
        const ConvWeights& conv = *projections[p];
        cut(begin, end, conv.out_per_group(), [&](int64_t row, int64_t stop) {
          add_rows({{conv, row, stop - row, 0}}, row / conv.out_per_group() * conv.in_per_group(),
                   p * padded + row - begin);
        });
      }
    }
    layer.heads_segments.push_back({first, segments_.size() - first});
  }
}

// The groups of the output product part the hidden channels, whatever the groups of the first product: each output
// group is computed from its own hidden channels, chunk by chunk.
void Encoder::add_feed_forward(const LayerWeights& w, Layer& layer) {
  const ConvWeights &in = w.intermediate, &out = w.output;
  const int64_t hidden = out.in_per_group();
  const int64_t most = precision() == Precision::int8 ? hidden / out.blocks : kHiddenColumns;
  for (int64_t group = 0; group < out.groups; ++group) {
    std::vector<Layer::Chunk> chunks;
    const int64_t count = divide_up(hidden, most);
    for (int64_t c = 0; c < count; ++c) {
      const int64_t begin = group * hidden + std::min(c * most, hidden);
      const int64_t end = group * hidden + std::min((c + 1) * most, hidden);
      Layer::Chunk chunk;
      chunk.hidden_begin = begin;
      chunk.hidden = end - begin;
      chunk.in.first = segments_.size();
      cut(begin, end, in.out_per_group(), [&](int64_t row, int64_t stop) {
        add_rows({{in, row, stop - row, 0}}, row / in.out_per_group() * in.in_per_group(), row);
      });
      chunk.in.count = segments_.size() - chunk.in.first;
      chunk.out.first = segments_.size();
      cut(0, out.out_per_group(), kSegmentColumns, [&](int64_t row, int64_t stop) {
        const int64_t channel = group * out.out_per_group() + row;
        segments_.add({{out, channel, stop - row, 0}}, group * hidden, channel, begin - group * hidden, end - begin,
                      c == 0, c + 1 == count);
      });
      chunk.out.count = segments_.size() - chunk.out.first;
      chunks.push_back(chunk);
    }
    layer.feed_forward.push_back(std::move(chunks));
  }
}

void Encoder::add_layer(const LayerWeights& w) {
  Layer layer;
  layer.channels = w.query.in_channels;
  layer.heads = w.heads;
  layer.head_size = layer.channels / w.heads;
  layer.hidden = w.intermediate.out_channels;
  layer.activation = w.activation;
  // q, k and v read the same operands, and so have the same blocks in all.
  layer.attention_scales = w.query.groups * w.query.blocks;
  layer.post_attention_scales = w.post_attention.groups * w.post_attention.blocks;
  layer.feed_forward_scales = w.intermediate.groups * w.intermediate.blocks;
  layer.output_scales = w.output.groups * w.output.blocks;
  layer.output_groups = w.output.groups;
  add_attention(w, layer);
  const ConvWeights& post = w.post_attention;
  for (int64_t group = 0; group < post.groups; ++group) {
    cut(0, post.out_per_group(), kSegmentColumns, [&](int64_t row, int64_t stop) {
      const int64_t channel = group * post.out_per_group() + row;
      layer.post_attention.push_back(add_rows({{post, channel, stop - row, 0}}, group * post.in_per_group(), channel));
    });
  }
  add_feed_forward(w, layer);
  const auto copy = [&](const NormWeights& norm) {
    return Norm{{norm.weight, norm.weight + layer.channels}, {norm.bias, norm.bias + layer.channels}, norm.eps};
  };
  layer.post_attention_norm = copy(w.post_attention_norm);
  layer.output_norm = copy(w.output_norm);
  layers_.push_back(std::move(layer));
}

void Encoder::pack(int threads) {
  segments_.pack(threads);
  for (Layer& layer : layers_) {
    for (const auto& chunks : layer.feed_forward) {
      std::vector<FeedForward::Chunk> blocks;
      for (const Layer::Chunk& chunk : chunks) {
        blocks.push_back({segments_.data() + chunk.in.first, chunk.in.count, segments_.data() + chunk.out.first,
                          chunk.out.count, chunk.hidden_begin, chunk.hidden});
      }
      for (int64_t piece = 0; piece < chunks.front().out.count; ++piece) {
        std::vector<Segment> chain;
        for (const Layer::Chunk& chunk : chunks) chain.push_back(segments_[chunk.out.first + piece]);
        layer.output_pieces.push_back(std::move(chain));
      }
      layer.blocks.push_back(std::move(blocks));
    }
  }
}

// ---- one forward

// Everything one call needs; members are filled by the calling thread, and only read by the others but for the buffers.
struct Encoder::Run {
  const Encoder& encoder;
  const EncoderInput& input;
  const PrecisionKernels& kernels;
  int threads;
  int64_t channels;

  // A sequence's rows among the part's compact ones, and the keys its rows attend to.
  struct Sequence {
    int64_t index, row, rows;
    const int32_t* tokens;  // which token each row is; null: all in order
    const int32_t* keys;    // null: all
    int64_t key_count;
    const float* mask;  // its first head's first query's, or null
  };
  std::vector<Sequence> sequences;
  std::vector<int32_t> kept;  // tokens that the mask keeps, sequence by sequence

  struct Part {
    std::size_t first, end;
    int64_t rows;
  };
  std::vector<Part> parts;

  // Buffers for the rows of the largest part.
  float *x, *context, *y, *hidden = nullptr;
  Operands x_operands{}, y_operands{};
  std::vector<char*> scratch;
  std::unique_ptr<Workspace> workspace;
  std::unique_ptr<std::atomic<int>[]> pending;  // pieces that a block of rows still waits for
  Times* times = nullptr;

  Run(const Encoder& e, const EncoderInput& i, int most_threads)
      : encoder(e),
        input(i),
        kernels(e.segments_.precision_kernels()),
        threads(most_threads),
        channels(e.layers_.front().channels) {}

  void plan();
  void classify(int64_t sequence);
  void allocate();
  void member(Team& team, int id);
  void load_rows(const Part& part, Team& team, int id);
  void store_rows(const Part& part, float* target, Team& team, int id);
  void attention(const Layer& layer, const Part& part, Team& team, int id);
  void post_attention(const Layer& layer, const Part& part, Team& team, int id);
  void feed_forward(const Layer& layer, const Layer* next, const Part& part, Team& team, int id);
  const Segment* head_segment(const Layer& layer, int64_t head) const;
  const Segment* post_attention_segment(const Layer& layer, int64_t piece) const;
  const Segment* feed_forward_segment(const Layer& layer, int64_t group) const;
  void finish_piece(int64_t block, int64_t pieces, const AddLayerNorm& norm, Rows rows);
  Operands operands_of(const Operands& made, float* rows, int64_t groups) const;
  int64_t hidden_rows(const Layer& layer) const;
  int64_t operand_memory(int64_t rows, int64_t width, int64_t groups) const;
  Operands operands_in(char* memory, int64_t rows, int64_t width, int64_t groups) const;
};

// Keys that a mask leaves out are dropped where the mask is the same for all queries and says only yes or no; anything
// else is added to the scores.
void Encoder::Run::classify(int64_t s) {
  Sequence sequence{s, 0, input.tokens, nullptr, nullptr, input.tokens, nullptr};
  if (input.mask) {
    const float* mask = input.mask + s * input.mask_sequence_stride;
    const auto offset = kept.size();
    bool plain = input.mask_head_stride == 0 && input.mask_query_stride == 0;
    for (int64_t k = 0; plain && k < input.tokens; ++k) {
      if (mask[k] == 0.0f) {
        kept.push_back(static_cast<int32_t>(k));
      } else {
        plain = is_lowest(mask[k]);
      }
    }
    const auto count = static_cast<int64_t>(kept.size() - offset);
    if (!plain || (count == 0 && !input.unpad)) {
      kept.resize(offset);
      sequence.mask = mask;
    } else if (input.unpad) {
      sequence.rows = sequence.key_count = count;
      if (count < input.tokens) sequence.tokens = kept.data() + offset;
    } else if (count < input.tokens) {
      sequence.keys = kept.data() + offset;
      sequence.key_count = count;
    }
  }
  if (sequence.rows > 0) sequences.push_back(sequence);
}

void Encoder::Run::plan() {
  if (input.mask) kept.reserve(static_cast<std::size_t>(input.batch * input.tokens));  // pointers into it are kept
  for (int64_t s = 0; s < input.batch; ++s) classify(s);
  const int64_t most = kPartTokensPerThread * std::max(threads, 2);
  for (std::size_t s = 0; s < sequences.size(); ++s) {
    if (parts.empty() || parts.back().rows + sequences[s].rows > most) parts.push_back({s, s, 0});
    sequences[s].row = parts.back().rows;
    parts.back().end = s + 1;
    parts.back().rows += sequences[s].rows;
  }
  int64_t largest = 0;
  for (const Part& part : parts) largest = std::max(largest, part.rows);
  const Layer& layer = encoder.layers_.front();
  if (largest * layer.channels * layer.channels < kSerialWork) threads = 1;
}

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
  int64_t per_member = 0, x_groups = 1, y_groups = 1;
  const int64_t operand_row = channels * kernels.operand_bytes;
  for (const Layer& layer : encoder.layers_) {
    per_member = std::max(per_member, kernels.attention_scratch(longest, layer.head_size));
    for (const auto& chunks : layer.blocks) {
      FeedForward block{};
      block.chunks = chunks.data();
      block.chunk_count = static_cast<int64_t>(chunks.size());
      per_member = std::max(per_member, kernels.feed_forward_scratch(block));
    }
    hidden_floats = std::max(hidden_floats, hidden_rows(layer) * layer.hidden);
    per_member = std::max(per_member, operand_memory(kBlockRows, channels, layer.post_attention_scales));
    per_member = std::max(per_member, operand_memory(hidden_rows(layer), layer.hidden, layer.output_scales));
    x_groups = std::max(x_groups, layer.attention_scales);
    y_groups = std::max(y_groups, layer.feed_forward_scales);
  }
  per_member = aligned(per_member) + 64;
  int64_t bytes = 0;
  const auto take = [&](int64_t size) {
    const int64_t offset = bytes;
    bytes += aligned(size);
    return offset;
  };
  const int64_t row_bytes = rows * channels * 4;
  const int64_t x_at = take(row_bytes), context_at = take(row_bytes), y_at = take(row_bytes);
  const int64_t hidden_at = take(hidden_floats * 4);
  const int64_t x_operands_at = take(rows * operand_row + 64), y_operands_at = take(rows * operand_row + 64);
  const int64_t x_scale_at = take(rows * x_groups * 4), y_scale_at = take(rows * y_groups * 4);
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
  pending.reset(new std::atomic<int>[static_cast<std::size_t>(blocks)]);
  for (int64_t b = 0; b < blocks; ++b) pending[static_cast<std::size_t>(b)].store(0, std::memory_order_relaxed);
}

// The operands of rows in `rows`, made beforehand or the rows themselves.
Operands Encoder::Run::operands_of(const Operands& made, float* rows, int64_t groups) const {
  Operands operands = made;
  operands.groups = groups;
  if (!made.data) operands.data = rows;
  return operands;
}

// A task's own operands: the rows of operands, and behind them their scales.
int64_t Encoder::Run::operand_memory(int64_t rows, int64_t width, int64_t groups) const {
  return aligned(rows * width * kernels.operand_bytes + 64) + aligned(rows * groups * 4);
}

Operands Encoder::Run::operands_in(char* memory, int64_t rows, int64_t width, int64_t groups) const {
  char* scale = memory + aligned(rows * width * kernels.operand_bytes + 64);
  return {memory, width, reinterpret_cast<float*>(scale), groups, width};
}

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

void Encoder::Run::attention(const Layer& layer, const Part& part, Team& team, int id) {
  const auto first = static_cast<int64_t>(part.first), count = static_cast<int64_t>(part.end - part.first);
  // Heads outside: threads meet the weights of one head with sequence after sequence.
  team.run(id, count * layer.heads, [&](int64_t task, int member) {
    const int64_t head = task / count;
    const Sequence& sequence = sequences[static_cast<std::size_t>(first + task % count)];
    const Piece& piece = layer.heads_segments[static_cast<std::size_t>(head)];
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
  const auto last = static_cast<int64_t>(layer.heads_segments.size()) - 1;
  return encoder.segments_.data() + layer.heads_segments[static_cast<std::size_t>(std::min(head, last))].first;
}
const Segment* Encoder::Run::post_attention_segment(const Layer& layer, int64_t piece) const {
  const auto last = static_cast<int64_t>(layer.post_attention.size()) - 1;
  return encoder.segments_.data() + layer.post_attention[static_cast<std::size_t>(std::min(piece, last))].first;
}
const Segment* Encoder::Run::feed_forward_segment(const Layer& layer, int64_t group) const {
  return layer.blocks[static_cast<std::size_t>(group % layer.output_groups)].front().in;
}

// Of the pieces of a block of rows, the last to be done closes it.
void Encoder::Run::finish_piece(int64_t block, int64_t pieces, const AddLayerNorm& norm, Rows rows) {
  if (pieces > 1) {
    std::atomic<int>& done = pending[static_cast<std::size_t>(block)];
    if (done.fetch_add(1, std::memory_order_acq_rel) + 1 < pieces) return;
    done.store(0, std::memory_order_relaxed);
  }
  kernels.add_layer_norm(norm, rows);
}

void Encoder::Run::post_attention(const Layer& layer, const Part& part, Team& team, int id) {
  const auto all = static_cast<int64_t>(layer.post_attention.size());
  const int64_t wanted = kTasksPerThread * threads;
  const int64_t blocks = divide_up(part.rows, kBlockRows);
  const int64_t pieces = threads == 1 ? 1 : std::clamp<int64_t>(divide_up(wanted, blocks), 1, all);
  const AddLayerNorm norm{layer.post_attention_norm.weight.data(),
                          layer.post_attention_norm.bias.data(),
                          layer.post_attention_norm.eps,
                          channels,
                          x,
                          channels,
                          y,
                          channels,
                          {y_operands.data, channels, y_operands.scale, layer.feed_forward_scales, channels}};
  team.run(id, blocks * pieces, [&](int64_t task, int member) {
    const int64_t block = task / pieces, part_of_columns = task % pieces;
    const Rows rows{part.rows * block / blocks, part.rows * (block + 1) / blocks};
    Product product{};
    product.x = {context, channels, nullptr, layer.post_attention_scales, channels};
    Rows of_operands = rows;
    if (kernels.operand_bytes > 0) {
      of_operands = {0, rows.end - rows.begin};
      product.x = operands_in(scratch[static_cast<std::size_t>(member)], of_operands.end, channels,
                              layer.post_attention_scales);
      kernels.prepare(context + rows.begin * channels, channels, of_operands, product.x);
    }
    const Piece& from = layer.post_attention[static_cast<std::size_t>(all * part_of_columns / pieces)];
    const Piece& to = layer.post_attention[static_cast<std::size_t>(all * (part_of_columns + 1) / pieces - 1)];
    product.segments = encoder.segments_.data() + from.first;
    product.segment_count = to.first + to.count - from.first;
    product.y = y + (rows.begin - of_operands.begin) * channels;
    product.y_row_stride = channels;
    const int64_t next = task + threads;
    product.next = next < blocks * pieces ? post_attention_segment(layer, all * (next % pieces) / pieces)
                                          : feed_forward_segment(layer, next - blocks * pieces);
    kernels.product(product, of_operands);
    finish_piece(block, pieces, norm, rows);
  });
}

void Encoder::Run::feed_forward(const Layer& layer, const Layer* next, const Part& part, Team& team, int id) {
  const Operands operands = operands_of(y_operands, y, layer.feed_forward_scales);
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
    const auto sequence_count = static_cast<int64_t>(part.end - part.first);
    const int64_t wanted = kTasksPerThread * threads;
    int64_t blocks = divide_up(part.rows, kBlockRows);
    if (blocks * layer.output_groups < wanted) {
      blocks = std::clamp(divide_up(wanted, layer.output_groups), blocks, divide_up(part.rows, 2 * kSmallBlockRows));
      if (blocks * layer.output_groups < threads) blocks = divide_up(part.rows, kSmallBlockRows);
    }
    team.run(id, blocks * layer.output_groups, [&](int64_t task, int member) {
      const int64_t block = task / layer.output_groups, group = task % layer.output_groups;
      const Rows rows{part.rows * block / blocks, part.rows * (block + 1) / blocks};
      const auto& chunks = layer.blocks[static_cast<std::size_t>(group)];
      const int64_t following = task + threads - blocks * layer.output_groups;
      const Segment* first = following < 0 ? feed_forward_segment(layer, task + threads)
                             : next        ? head_segment(*next, following / sequence_count)
                                           : nullptr;
      const FeedForward pass{operands, chunks.data(), static_cast<int64_t>(chunks.size()), layer.activation, x,
                             channels, first};
      kernels.feed_forward(pass, rows, scratch[static_cast<std::size_t>(member)]);
      finish_piece(block, layer.output_groups, norm, rows);
    });
    return;
  }
  // The same segments in the same order along K, so the same bits.
  std::vector<const FeedForward::Chunk*> chunks;
  for (const auto& group : layer.blocks) {
    for (const FeedForward::Chunk& chunk : group) chunks.push_back(&chunk);
  }
  team.run(id, static_cast<int64_t>(chunks.size()), [&](int64_t task, int) {
    const FeedForward::Chunk& chunk = *chunks[static_cast<std::size_t>(task)];
    kernels.product({operands, chunk.in, chunk.in_count, hidden, layer.hidden, layer.activation, nullptr},
                    {0, part.rows});
  });
  const auto pieces = static_cast<int64_t>(layer.output_pieces.size());
  team.run(id, pieces, [&](int64_t task, int member) {
    const std::vector<Segment>& chain = layer.output_pieces[static_cast<std::size_t>(task)];
    Product product{{hidden, layer.hidden, nullptr, layer.output_scales, layer.hidden},
                    chain.data(),
                    static_cast<int64_t>(chain.size()),
                    x,
                    channels,
                    Activation::none,
                    nullptr};
    if (kernels.operand_bytes > 0) {
      product.x = operands_in(scratch[static_cast<std::size_t>(member)], part.rows, layer.hidden, layer.output_scales);
      kernels.prepare(hidden, layer.hidden, {0, part.rows}, product.x);
    }
    kernels.product(product, {0, part.rows});
  });
  const int64_t blocks = divide_up(part.rows, kSmallBlockRows);
  team.run(id, blocks, [&](int64_t block, int) {
    kernels.add_layer_norm(norm, {part.rows * block / blocks, part.rows * (block + 1) / blocks});
  });
}

void Encoder::Run::member(Team& team, int id) {
  using Clock = std::chrono::steady_clock;
  auto before = Clock::now();
  const auto lap = [&](double Times::* pass) {
    if (!times || id != 0) return;
    const auto now = Clock::now();
    times->*pass += std::chrono::duration<double>(now - before).count();
    before = now;
  };
  for (const Part& part : parts) {
    load_rows(part, team, id);
    before = Clock::now();
    for (std::size_t l = 0; l < encoder.layers_.size(); ++l) {
      const Layer& layer = encoder.layers_[l];
      attention(layer, part, team, id);
      lap(&Times::attention);
      post_attention(layer, part, team, id);
      lap(&Times::post_attention);
      feed_forward(layer, l + 1 < encoder.layers_.size() ? &encoder.layers_[l + 1] : nullptr, part, team, id);
      lap(&Times::feed_forward);
      if (input.states) store_rows(part, input.states[l], team, id);
    }
    store_rows(part, input.y, team, id);
  }
}

Encoder::Times Encoder::profile(const EncoderInput& input, int threads) const {
  Times times;
  if (input.batch * input.tokens == 0) return times;  // y may be null
  const int64_t channels = layers_.front().channels;
  const auto size = static_cast<std::size_t>(input.batch * input.tokens * channels) * sizeof(float);
  Run run(*this, input, std::max(threads, 1));
  run.plan();
  if (static_cast<int64_t>(run.sequences.size()) < input.batch) {  // some have no token: their rows are zero
    std::memset(input.y, 0, size);
    for (std::size_t l = 0; input.states && l < layers_.size(); ++l) std::memset(input.states[l], 0, size);
  }
  if (run.parts.empty()) return times;
  run.allocate();
  run.times = &times;
  run_team(run.threads, [](void* r, Team& team, int id) { static_cast<Run*>(r)->member(team, id); }, &run);
  return times;
}

void Encoder::run(const EncoderInput& input, int threads) const { profile(input, threads); }

}  // namespace squeezebert
