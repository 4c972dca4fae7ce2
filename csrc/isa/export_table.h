// The last line of every csrc/isa/*.cpp: the kernels, compiled with that file's flags, as a table.
// Everything included here has internal linkage, and nothing of the C++ library is used: a template or inline function
// compiled under two flag sets would be merged by the linker, and the wrong copy might be kept.
#pragma once
#include "../kernels/activation_gradients.h"
#include "../kernels/add_layer_norm.h"
#include "../kernels/add_layer_norm_training.h"
#include "../kernels/attention.h"
#include "../kernels/attention_training.h"
#include "../kernels/bfloat_rows.h"
#include "../kernels/dropout.h"
#include "../kernels/embeddings.h"
#include "../kernels/feed_forward.h"
#include "../kernels/feed_forward_backward.h"
#include "../kernels/multiply_add_chains.h"
#include "../kernels/product.h"
#include "../kernels/weight_gradient.h"

namespace {

using squeezebert::KernelTable;
using squeezebert::Precision;
using squeezebert::PrecisionKernels;
using squeezebert::TrainingKernels;

using PackWeights = decltype(PrecisionKernels::pack);

template <class Micro, class Scores>
constexpr PrecisionKernels kernels_of(bool native, PackWeights pack_weights = pack<Micro>) {
  using Format = typename Micro::Format;
  PrecisionKernels kernels{};
  kernels.block_rows = Micro::kRows;
  kernels.panel_columns = Micro::kPanelColumns;
  kernels.deepest_segment = Micro::kDeepestSegment;
  kernels.hidden_chunk = Micro::kHiddenChunk;
  kernels.native = native;
  kernels.scores = Scores::kPrecision;
  kernels.rounds_context = Scores::kPrecision == Precision::bfloat16 && sizeof(typename Format::Operand) == 2;
  kernels.coarse_gelu = Format::kCoarse;
  kernels.operand_shift = Format::kOperandShift;
  kernels.operand_bytes = operand_bytes<Format>();
  kernels.packed_bytes = packed_bytes<Micro>;
  kernels.pack = pack_weights;
  kernels.prepare = Format::prepare;
  kernels.product = product<Micro>;
  kernels.add_layer_norm = add_layer_norm<Format>;
  kernels.attention_scratch = Scores::scratch;
  kernels.attention = Scores::template attention<Micro>;
  kernels.feed_forward_scratch = feed_forward_scratch<Micro>;
  kernels.feed_forward = feed_forward<Micro>;
  kernels.multiply_add_chains = Micro::chains;
  return kernels;
}

// squeezebert-run trains nothing, and half of a build is for training.
#ifdef SQUEEZEBERT_INFERENCE_ONLY
template <class Gradients, class Attention>
constexpr PrecisionKernels with_training(PrecisionKernels kernels) {
  return kernels;
}

constexpr TrainingKernels training_kernels() { return {}; }
#else
template <class Gradients, class Attention>
constexpr PrecisionKernels with_training(PrecisionKernels kernels) {
  kernels.training_attention_scratch = Attention::scratch;
  kernels.attention_forward = Attention::forward;
  kernels.attention_backward = Attention::backward;
  kernels.weight_gradient_scratch = weight_gradient_scratch<Gradients>;
  kernels.weight_gradient = weight_gradient<Gradients>;
  kernels.feed_forward_backward_scratch = feed_forward_backward_scratch<Gradients>;
  kernels.feed_forward_backward = feed_forward_backward<Gradients>;
  return kernels;
}

constexpr TrainingKernels training_kernels() {
  return {::add_layer_norm_forward,   ::add_layer_norm_backward, ::activation_backward, ::drop_rows,
          copy_rows<uint16_t, float>, copy_rows<float, uint16_t>};
}
#endif

}  // namespace

template <class Micro>
constexpr PrecisionKernels float32_kernels() {
  return with_training<VectorGradients<Micro>, VectorTrainingAttention>(kernels_of<Micro, VectorScores>(true));
}

// FLOAT32: the micro-kernel of vectors. HIGHEST, HIGH and MEDIUM: float32 by parts, or as it is.
#define SQUEEZEBERT_EXPORT_KERNELS(NAME, FLOAT32, BFLOAT16, INT8, HIGHEST, HIGH, MEDIUM)               \
  const squeezebert::KernelTable* squeezebert::NAME##_kernels() {                                      \
    static constexpr KernelTable table = {                                                             \
        #NAME,        kLanes,     {float32_kernels<FLOAT32>(), BFLOAT16, INT8, HIGHEST, HIGH, MEDIUM}, \
        ::embeddings, ::activate, training_kernels()};                                                 \
    return &table;                                                                                     \
  }

// Without units that make float32 by parts faster.
#define SQUEEZEBERT_EXPORT_WITHOUT_PARTS(NAME, FLOAT32, BFLOAT16, INT8)                                             \
  SQUEEZEBERT_EXPORT_KERNELS(NAME, FLOAT32, BFLOAT16, INT8, float32_kernels<FLOAT32>(), float32_kernels<FLOAT32>(), \
                             float32_kernels<FLOAT32>())

// All on vectors. Whether bfloat16 and int8 have instructions of their own in this build.
#define SQUEEZEBERT_EXPORT_TABLE(NAME, NATIVE_BFLOAT16, NATIVE_INT8)                                  \
  SQUEEZEBERT_EXPORT_WITHOUT_PARTS(NAME, VectorTile<Float32>,                                         \
                                   (kernels_of<VectorTile<Bfloat16>, VectorScores>(NATIVE_BFLOAT16)), \
                                   (kernels_of<VectorTile<Int8>, VectorScores>(NATIVE_INT8)))
