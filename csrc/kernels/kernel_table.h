// What one instruction-set build offers. Each csrc/isa/*.cpp compiles the same kernels with its own flags and exports
// one such table; nothing else crosses from a build to the rest of the program.
#pragma once
#include <cstdint>

namespace squeezebert {

enum class Activation : int32_t { none, gelu, gelu_tanh, relu, silu };

// y[t, g*N + n] = activation(bias[g*N + n] + sum_k x[t, g*K + k] * weight[g*N + n, k]) for every group g
struct GroupedPointwiseConv {
  const float* x;              // [tokens, groups * in_per_group], rows x_row_stride apart
  const float* packed_weight;  // as pack_grouped_pointwise_conv wrote it
  const float* bias;           // [groups * out_per_group] or null
  float* y;                    // [tokens, groups * out_per_group], rows y_row_stride apart
  int64_t x_row_stride;        // in elements, as every stride here
  int64_t y_row_stride;
  int64_t groups;
  int64_t in_per_group;   // K
  int64_t out_per_group;  // N
  Activation activation;
};

// The part of a product that one task computes.
struct Block {
  int64_t group;
  int64_t token_begin, token_end;
  int64_t column_begin, column_end;  // of the group's N; multiples of panel_columns, but for an end at N
};

struct KernelTable {
  const char* name;
  int64_t tile_rows;
  int64_t panel_columns;

  // weight [groups * N, K], contiguous -> groups * K * packed_columns(N) elements: per group, panels of panel_columns
  // columns, each K rows of consecutive columns. A last, narrower panel is padded with zeros to whole vectors.
  int64_t (*packed_columns)(int64_t out_per_group);
  void (*pack_grouped_pointwise_conv)(const float* weight, int64_t groups, int64_t out_per_group, int64_t in_per_group,
                                      float* packed_weight);
  void (*grouped_pointwise_conv)(const GroupedPointwiseConv& conv, const Block& block);

  // Independent chains of multiply-adds in registers; returns the number of floating-point operations done. What the
  // arithmetic units can do when nothing has to be loaded: the denominator of every "fraction of peak".
  int64_t (*multiply_add_chains)(int64_t iterations);
};

// Null where the build is not part of this binary.
const KernelTable* scalar_kernels();
const KernelTable* avx2_kernels();
const KernelTable* avx512_kernels();
const KernelTable* neon_kernels();

}  // namespace squeezebert
