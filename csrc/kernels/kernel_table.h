// What one instruction-set build offers. Each csrc/isa/*.cpp compiles the same kernels with its own flags and exports
// one such table; nothing else crosses from a build to the rest of the program.
#pragma once
#include <cstdint>

namespace squeezebert {

enum class Activation : int32_t { none, gelu, gelu_tanh, relu, silu, tanh };

// What the products of a model run in. Sums are float32, of int8 exact int32; everything between products is float32.
// float32 is on vectors. The last three are float32 too, on matrix units by parts of bfloat16 (micro/float32_parts.h),
// by the names that PyTorch has for their accuracy; builds without such units have float32's kernels in their place.
enum class Precision : int32_t { float32, bfloat16, int8, float32_highest, float32_high, float32_medium };
constexpr int kPrecisions = 6;

// One dense block of a grouped product: columns that depend on the same inputs. A whole product is a list of them, cut
// so that each stays in the caches; blocks of the same columns follow each other along `depth`, all but the first of
// which accumulate, the last of which adds the bias. Arrays by column are padded with zeros to whole vectors.
struct Segment {
  int64_t in_begin, depth;     // of the input's channels
  int64_t out_begin, columns;  // of the output's channels
  bool accumulate;
  const void* weight;    // as `pack` wrote it
  const float* bias;     // null but in a column's first segment
  const float* scale;    // int8 and parts alone: by column
  const int32_t* start;  // int8 alone: what the sums start from, by column
};

struct Rows {
  int64_t begin, end;
};

// Rows as products read them: float32 as they are; otherwise rounded to bfloat16, split into parts of it with one scale
// per row, or quantized to int8 with one scale per row and group of channels, in the build's own layout.
struct Operands {
  void* data;
  int64_t row_stride;  // in elements
  float* scale;        // int8 and parts alone: [rows, groups]
  int64_t groups;
  int64_t channels;
};

// y = act(x * weight^T + bias) for rows and columns as the segments say.
struct Product {
  Operands x;
  const Segment* segments;
  int64_t segment_count;
  float* y;
  int64_t y_row_stride;
  Activation activation;
  const Segment* next;  // whose weights to fetch meanwhile, or null
  // Whether the rows of x and y may be beyond the caches: then they are fetched some time before they are needed.
  bool far_x = false, far_y = false;
};

// y = layer_norm(y + residual), and its operands for the product that follows.
struct AddLayerNorm {
  const float* weight;
  const float* bias;
  float eps;
  int64_t channels;
  const float* residual;  // or null
  int64_t residual_row_stride;
  float* y;
  int64_t y_row_stride;
  Operands next;  // data may be null: then none are made
};

// Pass A for one head of one sequence: projections of x, softmax(q k^T scale + mask) v.
struct Attention {
  Operands x;
  const Segment* segments;  // q at column 0, k and v at padded_columns(head_size) and twice that
  int64_t segment_count;
  int64_t head_size;
  float scale;
  int64_t row_begin, rows;  // the sequence
  const int32_t* keys;      // rows of the sequence that are attended to, ascending, or null: all
  int64_t key_count;
  const float* mask;        // added to the scores: [rows, key_count], or null
  int64_t mask_row_stride;  // may be 0
  float* context;           // the head's first channel
  int64_t context_row_stride;
  // Where `rounds_context`: the same rounded to the operands of the next product, in place of `context`; or null.
  uint16_t* rounded_context;
  int64_t rounded_context_row_stride;
  const Segment* next;  // as Product's
};

// Pass C for one group and a stretch of rows: act(x * in^T + bias) * out^T + bias.
struct FeedForward {
  Operands x;
  struct Chunk {
    const Segment* in;  // write consecutive channels of the hidden row, from hidden_begin
    int64_t in_count;
    const Segment* out;  // read them
    int64_t out_count;
    int64_t hidden_begin, hidden;
  };
  const Chunk* chunks;
  int64_t chunk_count;
  Activation activation;
  float* y;
  int64_t y_row_stride;
  const Segment* next;  // as Product's
};

struct Embeddings {
  // float32, or int8 with a scale per row
  struct Table {
    const float* rows;
    bool rounded;  // of float32: each row is taken to int8 and back, as if the table were int8
    const int8_t* quantized;
    const float* scale;
    int64_t size;
  };
  Table tables[3];        // words, positions, token types
  const int64_t* ids[3];  // of every row; types may be null: all 0; positions too: a row's place in its sequence
  int64_t tokens;         // of a sequence
  const float* norm_weight;
  const float* norm_bias;
  float eps;
  int64_t channels;
  float* y;  // [rows, channels]
};

// ---- training

// What tensors are of: float, or bfloat16 as uint16_t. Kernels compute in float32 on either; parameters, their
// gradients and statistics are float.
enum class Element : int32_t { float32, bfloat16 };

// Zero an element with probability threshold / 2^32, multiply the others by scale. threshold 0: no dropout.
struct Dropout {
  uint64_t seed;
  uint32_t threshold;
  float scale;
};

// Attention of one head of one sequence on q, k and v, which are at the head's first channel. They, context and
// gradients are of `element`: kernels of bfloat16 take that alone.
struct HeadTensors {
  int64_t head_size, queries, keys;
  const void *q, *k, *v;
  int64_t q_row_stride, k_row_stride, v_row_stride;
  float scale;
  const float* mask;  // [queries, keys], or null
  int64_t mask_row_stride;
  Dropout dropout;
  int64_t dropout_row;  // the first query's
  float* statistics;    // [queries, 2]: the largest score, and the reciprocal of the exponentials' sum
  Element element = Element::float32;
};

struct AttentionForward {
  HeadTensors head;
  void* context;
  int64_t context_row_stride;
};

struct AttentionBackward {
  HeadTensors head;
  const void* grad;
  int64_t grad_row_stride;
  void *grad_q, *grad_k, *grad_v;
  int64_t grad_q_row_stride, grad_k_row_stride, grad_v_row_stride;
};

// total = dropout(x) + residual, y = layer_norm(total), row by row. Everything but the vectors is [rows, channels].
struct AddLayerNormForward {
  const float* weight;
  const float* bias;
  float eps;
  int64_t channels;
  const void *x, *residual;
  void *total, *y;
  float *mean, *reciprocal;  // [rows]
  Dropout dropout;
  Element element = Element::float32;  // of the tensors
};

struct AddLayerNormBackward {
  const float* weight;
  int64_t channels;
  const void *grad, *total;
  const float *mean, *reciprocal;
  void *grad_x, *grad_residual;    // either may be null
  float *grad_weight, *grad_bias;  // [channels] each, of these rows alone; or null
  Dropout dropout;
  Element element = Element::float32;  // of the tensors
};

// y (+)= grad^T x and bias (+)= grad's sums by column.
struct WeightGradient {
  const void* grad;  // [rows, out]
  int64_t grad_row_stride;
  const void* x;  // [rows, in]
  int64_t x_row_stride;
  int64_t rows, out, in;
  bool accumulate;
  float* y;  // [out, in]
  int64_t y_row_stride;
  float* bias;  // [out] or null
  Element grad_element = Element::float32, x_element = Element::float32;
};

// The gradient of one group's feed-forward block, by some of its hidden channels. Tensors are at their first channel.
struct FeedForwardBackward {
  struct Chunk {
    const Segment* in;  // x to the hidden channels, with the bias
    int64_t in_count;
    const Segment* back_out;  // grad to the hidden channels' gradient
    int64_t back_out_count;
    const Segment* back_in;  // that to x's
    int64_t back_in_count;
    int64_t hidden_begin, hidden;
    float* grad_in;        // [hidden, in], or null
    float* grad_bias_in;   // [hidden] or null
    float* grad_out;       // [out, hidden], its rows grad_out_row_stride apart, or null
    float* grad_bias_out;  // [out] or null
  };
  const Chunk* chunks;
  int64_t chunk_count;
  Activation activation;
  int64_t rows, in_begin, in, out_begin, out;  // of the channels of x and grad, the group's
  const void* x;
  int64_t x_row_stride;
  const void* grad;
  int64_t grad_row_stride;
  float* grad_x;  // or null; the first chunk writes, the others add
  int64_t grad_x_row_stride;
  int64_t grad_out_row_stride;
  Element element = Element::float32;  // of x and grad
};

struct TrainingKernels {
  // row: [channels], to work in.
  void (*add_layer_norm_forward)(const AddLayerNormForward& norm, Rows rows, float* row);
  void (*add_layer_norm_backward)(const AddLayerNormBackward& norm, Rows rows, float* row);
  // z to activation(z), if `keep`, and grad to grad * activation'(z), each in place.
  void (*activation_backward)(Activation activation, bool keep, float* z, float* grad, int64_t count);
  // y = dropout(x), [rows, channels]; of x's gradient the same.
  void (*dropout)(const Dropout& dropout, const void* x, void* y, int64_t channels, Rows rows, Element element);
  // Rows of bfloat16 to float32 and back, rounded.
  void (*widen)(const uint16_t* x, int64_t x_row_stride, int64_t channels, Rows rows, float* y, int64_t y_row_stride);
  void (*round)(const float* x, int64_t x_row_stride, int64_t channels, Rows rows, uint16_t* y, int64_t y_row_stride);
};

// The kernels of one precision, and the shape of their micro-kernel.
struct PrecisionKernels {
  int64_t block_rows, panel_columns;  // that it takes at once
  int64_t deepest_segment;            // along K, that suits the caches
  int64_t hidden_chunk;               // channels of a feed-forward block's hidden rows that are made at once, at most
  bool native;                        // it has an instruction of its own; without, products are computed by wider ones
  int64_t products;                   // by parts: of bfloat16, for one of float32; else 0
  Precision scores;                   // of attention: what scores and values are multiplied in
  bool rounds_context;                // attention can write its context as operands
  bool takes_bfloat16;                // operands are rows of bfloat16 as they are, of any row stride
  bool coarse_gelu;                   // gelu is off by up to 2.1e-4, since its results are rounded right after
  int32_t operand_shift;              // int8 alone: sums start at minus this times the sum of the weights
  int64_t operand_bytes;              // of one element of Operands; float32 rows need none, and are used in place

  // weight: [columns, depth], float or, for int8, int8_t, at these strides in elements, one of which is 1. By parts,
  // scale, [columns], is written.
  int64_t (*packed_bytes)(int64_t columns, int64_t depth);
  void (*pack)(const void* weight, int64_t column_stride, int64_t depth_stride, int64_t columns, int64_t depth,
               void* packed, float* scale);

  void (*prepare)(const float* x, int64_t x_row_stride, Rows rows, const Operands& operands);
  void (*product)(const Product& product, Rows rows);
  void (*add_layer_norm)(const AddLayerNorm& norm, Rows rows);

  // Scratch is aligned to a cache line.
  int64_t (*attention_scratch)(int64_t rows, int64_t head_size);
  void (*attention)(const Attention& attention, char* scratch);
  int64_t (*feed_forward_scratch)(const FeedForward& block);
  void (*feed_forward)(const FeedForward& block, Rows rows, char* scratch);

  // Attention in training, and products of gradients: in float32 of any form, whose attention is the same, and in
  // bfloat16 on matrix units. Null in other precisions, which gain nothing.
  int64_t (*training_attention_scratch)(const HeadTensors& head);  // of either
  void (*attention_forward)(const AttentionForward& attention, char* scratch);
  void (*attention_backward)(const AttentionBackward& attention, char* scratch);
  int64_t (*weight_gradient_scratch)(int64_t out, int64_t in);
  void (*weight_gradient)(const WeightGradient& gradient, char* scratch);
  int64_t (*feed_forward_backward_scratch)(int64_t in, int64_t hidden, int64_t out);
  void (*feed_forward_backward)(const FeedForwardBackward& block, char* scratch);

  // Independent chains of multiply-adds in registers; returns the number of operations done. What the arithmetic units
  // can do when nothing has to be loaded: the denominator of every "fraction of peak".
  int64_t (*multiply_add_chains)(int64_t iterations);
};

struct KernelTable {
  const char* name;
  int64_t lanes;  // of a vector: arrays by column are padded to whole ones

  PrecisionKernels precision[kPrecisions];
  void (*embeddings)(const Embeddings& embeddings, Rows rows);
  void (*activate)(Activation activation, float* x, int64_t count);  // in place, to float32 accuracy
  TrainingKernels training;
};

// NAME_kernels of each build; null where it is not part of this binary.
#define BUILD(NAME, CPU) const KernelTable* NAME##_kernels();
#include "../isa/builds.inc"
#undef BUILD

}  // namespace squeezebert
