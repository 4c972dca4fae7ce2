// The last line of every csrc/isa/*.cpp: the kernels, compiled with that file's flags, as a table.
// Everything included here has internal linkage, and nothing of the C++ library is used: a template or inline function
// compiled under two flag sets would be merged by the linker, and the wrong copy might be kept.
#pragma once
#include "../kernels/activation_gradients.h"
#include "../kernels/add_layer_norm.h"
#include "../kernels/add_layer_norm_training.h"
#include "../kernels/attention.h"
#include "../kernels/attention_training.h"
#include "../kernels/dropout.h"
#include "../kernels/embeddings.h"
#include "../kernels/feed_forward.h"
#include "../kernels/feed_forward_backward.h"
#include "../kernels/multiply_add_chains.h"
#include "../kernels/product.h"
#include "../kernels/weight_gradient.h"

namespace {

template <class Format>
constexpr squeezebert::PrecisionKernels kernels_of() {
  return {Format::kInPlace ? 0 : static_cast<int64_t>(sizeof(typename Format::Operand)),
          packed_bytes<Format>,
          pack<Format>,
          Format::prepare,
          product<Format>,
          add_layer_norm<Format>,
          attention_scratch,
          attention<Format>,
          feed_forward_scratch<Format>,
          feed_forward<Format>};
}

}  // namespace

#define SQUEEZEBERT_EXPORT_TABLE(NAME, NATIVE_BFLOAT16, NATIVE_INT8)                                      \
  const squeezebert::KernelTable* squeezebert::NAME##_kernels() {                                         \
    static constexpr KernelTable table = {                                                                \
        #NAME,                                                                                            \
        kTileRows,                                                                                        \
        kPanelColumns,                                                                                    \
        kLanes,                                                                                           \
        NATIVE_BFLOAT16,                                                                                  \
        NATIVE_INT8,                                                                                      \
        kIntOperandShift,                                                                                 \
        {kernels_of<Float32>(), kernels_of<Bfloat16>(), kernels_of<Int8>()},                              \
        ::embeddings,                                                                                     \
        {attention_training_scratch, ::attention_forward, ::attention_backward, ::add_layer_norm_forward, \
         ::add_layer_norm_backward, ::weight_gradient_scratch, ::weight_gradient, ::activation_backward,  \
         ::feed_forward_backward_scratch, ::feed_forward_backward, ::drop_rows},                          \
        {::multiply_add_chains<Float32>, ::multiply_add_chains<Bfloat16>, ::multiply_add_chains<Int8>}};  \
    return &table;                                                                                        \
  }
