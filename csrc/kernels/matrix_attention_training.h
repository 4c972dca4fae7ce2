// attention_training.h on matrix units, of tensors in bfloat16: the same steps, whose products are of numbers rounded
// to that, with float32 sums. Softmax and its gradient stay float32, so delta comes from the products that it is taken
// off. Included by the instruction-set builds alone.
//
//     forward     scores = Q K^T           context = P' V
//     backward    scores, dP = dO V^T      dQ = dS K      dV = P'^T dO      dK = dS^T Q
//
// A product's second factor is in panels: K, V by columns, since they are transposed in it, K again by rows for dQ, and
// a block's Q and dO by rows. P' and dS are transposed while they are rounded. `Panels`: as matrix_attention.h has it.
#pragma once
#include "attention_training.h"
#include "matrix_attention.h"
#include "matrix_gradients.h"

namespace {

template <class Panels>
struct MatrixTrainingAttention {
  using Scores = MatrixScores<Panels>;
  static constexpr int64_t kTall = Panels::kQueries, kKeys = Panels::kKeys, kStep = Panels::kStep;
  // Queries of a block: the more of them, the deeper the products for dK and dV.
  static constexpr int64_t kQueries = round_up(64, kTall);
  // One step more: a power of two would put all keys of a block into the same few cache lines.
  static constexpr int64_t kTransposedStride = kQueries + kStep;
  static_assert(kKeys % 4 == 0, "dropout begins at whole counters");

  static int64_t scratch(const HeadTensors& h) {
    const int64_t forward = forward_layout(h, nullptr).bytes, backward = backward_layout(h, nullptr).bytes;
    return forward > backward ? forward : backward;
  }

  static void forward(const AttentionForward& a, char* scratch) {
    const HeadTensors& h = a.head;
    const typename Scores::Layout s = forward_layout(h, scratch);
    copy_rows(h.q, h.q_row_stride, h.queries, h.head_size, s.q, s.width);
    Scores::pack_keys(rows_of(h.k, h.k_row_stride, h.head_size), h.keys, s.width, s.k);
    Scores::pack_values(rows_of(h.v, h.v_row_stride, h.head_size), h.keys, s.width, s.v);
    Panels panels;
    Scores::template attend<true>(panels,
                                  {h.head_size, h.queries, nullptr, h.keys, h.scale, h.mask, h.mask_row_stride, nullptr,
                                   0, h.statistics, h.dropout, h.dropout_row},
                                  static_cast<uint16_t*>(a.context), a.context_row_stride, s);
  }

  static void backward(const AttentionBackward& a, char* scratch) {
    const HeadTensors& h = a.head;
    const Backward s = backward_layout(h, scratch);
    copy_rows(h.q, h.q_row_stride, h.queries, h.head_size, s.q, s.width);
    copy_rows(a.grad, a.grad_row_stride, h.queries, h.head_size, s.grad, s.width);
    const auto key_of = rows_of(h.k, h.k_row_stride, h.head_size);
    Scores::pack_keys(key_of, h.keys, s.width, s.keys);
    Scores::pack_keys(rows_of(h.v, h.v_row_stride, h.head_size), h.keys, s.width, s.values);
    Scores::pack_values(key_of, h.keys, s.width, s.key_rows);
    Panels panels;
    for (int64_t q0 = 0; q0 < h.queries; q0 += kQueries) backward_of(panels, h, q0, s);
    const auto round_back = [&](const float* from, int64_t rows, void* to, int64_t stride) {
      MatrixBfloat16::prepare(from, s.width, {0, rows}, {to, stride, nullptr, 1, h.head_size});
    };
    round_back(s.grad_q, h.queries, a.grad_q, a.grad_q_row_stride);
    round_back(s.grad_k, h.keys, a.grad_k, a.grad_k_row_stride);
    round_back(s.grad_v, h.keys, a.grad_v, a.grad_v_row_stride);
  }

 private:
  struct Backward {
    uint16_t *q, *grad;               // [whole blocks of queries, width]
    uint16_t *keys, *values;          // panels of columns
    uint16_t* key_rows;               // of each block of keys, panels of the head's channels
    uint16_t *q_rows, *grad_rows;     // of a block of queries, panels of the head's channels
    float *grad_q, *grad_k, *grad_v;  // [whole tiles of queries or keys, width]
    float *scores, *slopes;           // [kQueries, kKeys], P' and dS
    uint16_t* rounded_slopes;         // the same
    uint16_t *weights_t, *slopes_t;   // [whole tiles of keys, kTransposedStride]
    float* probabilities;             // [kKeys], of one query before dropout
    int64_t width, bytes;
  };

  static typename Scores::Layout forward_layout(const HeadTensors& h, char* scratch) {
    typename Scores::Layout s{};
    ScratchCut cut{scratch};
    Scores::take_blocks(h.queries, h.keys, h.head_size, cut, s);
    s.bytes = cut.bytes;
    return s;
  }

  static Backward backward_layout(const HeadTensors& h, char* scratch) {
    Backward s;
    ScratchCut cut{scratch};
    s.width = round_up(h.head_size, kStep);
    const int64_t queries = round_up(h.queries, kTall), keys = round_up(h.keys, kStep);
    s.q = cut.take<uint16_t>(queries * s.width);
    s.grad = cut.take<uint16_t>(queries * s.width);
    s.keys = cut.take<uint16_t>(keys * s.width);
    s.values = cut.take<uint16_t>(keys * s.width);
    s.key_rows = cut.take<uint16_t>(keys * s.width);
    s.q_rows = cut.take<uint16_t>(kQueries * s.width);
    s.grad_rows = cut.take<uint16_t>(kQueries * s.width);
    s.grad_q = cut.take<float>(queries * s.width);
    s.grad_k = cut.take<float>(round_up(h.keys, kTall) * s.width);
    s.grad_v = cut.take<float>(round_up(h.keys, kTall) * s.width);
    s.scores = cut.take<float>(kQueries * kKeys);
    s.slopes = cut.take<float>(kQueries * kKeys);
    s.rounded_slopes = cut.take<uint16_t>(kQueries * kKeys);
    s.weights_t = cut.take<uint16_t>(round_up(kKeys, kTall) * kTransposedStride);
    s.slopes_t = cut.take<uint16_t>(round_up(kKeys, kTall) * kTransposedStride);
    s.probabilities = cut.take<float>(kKeys);
    s.bytes = cut.bytes;
    return s;
  }

  static auto rows_of(const void* head, int64_t stride, int64_t head_size) {
    const auto* from = static_cast<const uint16_t*>(head);
    return [=](int64_t j, int64_t c) { return Scores::load_step(from + j * stride, c, head_size); };
  }

  static void copy_rows(const void* head, int64_t stride, int64_t rows, int64_t head_size, uint16_t* to,
                        int64_t width) {
    const auto load = rows_of(head, stride, head_size);
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t c = 0; c < width; c += kStep) store_pairs(to + r * width + c, load(r, c));
    }
  }

  // `times` for any number of rows.
  static void times(Panels& panels, int64_t rows, const uint16_t* x, int64_t x_stride, int64_t depth,
                    const uint16_t* factor, int64_t columns, bool accumulate, float* y, int64_t y_stride) {
    for (int64_t r = 0; r < rows; r += kTall) {
      panels.times(least(kTall, rows - r), x + r * x_stride, x_stride, depth, factor, columns, accumulate,
                   y + r * y_stride, y_stride);
    }
  }

  // What a block of queries adds to the gradients.
  static void backward_of(Panels& panels, const HeadTensors& h, int64_t q0, const Backward& s) {
    const int64_t queries = least(kQueries, h.queries - q0), width = s.width;
    const uint16_t *q_block = s.q + q0 * width, *grad_block = s.grad + q0 * width;
    Scores::pack_values([&](int64_t j, int64_t c) { return load_pairs(q_block + j * width + c); }, queries, width,
                        s.q_rows);
    Scores::pack_values([&](int64_t j, int64_t c) { return load_pairs(grad_block + j * width + c); }, queries, width,
                        s.grad_rows);
    const auto products = [&](int64_t k0, int64_t whole) {
      times(panels, queries, q_block, width, width, s.keys + k0 * width, whole, false, s.scores, kKeys);
      times(panels, queries, grad_block, width, width, s.values + k0 * width, whole, false, s.slopes, kKeys);
    };
    const auto probabilities_of = [&](int64_t q) {
      return h.dropout.threshold ? s.probabilities : s.scores + q * kKeys;
    };
    const auto again = [&](int64_t q, int64_t k0, int64_t keys) {
      return probabilities_again(h, q0 + q, k0, keys, probabilities_of(q), s.scores + q * kKeys, s.slopes + q * kKeys);
    };
    // Where one block holds all keys, a query's delta comes with its probabilities; else the blocks are gone through
    // twice.
    const bool several = h.keys > kKeys;
    float delta[kQueries] = {};
    for (int64_t k0 = 0; several && k0 < h.keys; k0 += kKeys) {
      const int64_t keys = least(kKeys, h.keys - k0);
      products(k0, round_up(keys, kStep));
      for (int64_t q = 0; q < queries; ++q) delta[q] += again(q, k0, keys);
    }
    for (int64_t k0 = 0; k0 < h.keys; k0 += kKeys) {
      const int64_t keys = least(kKeys, h.keys - k0), whole = round_up(keys, kStep);
      products(k0, whole);
      for (int64_t q = 0; q < queries; ++q) {
        const float sum = again(q, k0, keys);
        softmax_backward(probabilities_of(q), several ? delta[q] : sum, h.scale, keys, s.slopes + q * kKeys);
        round_row(s.slopes + q * kKeys, keys, s.rounded_slopes + q * kKeys);
      }
      times(panels, queries, s.rounded_slopes, kKeys, whole, s.key_rows + k0 * width, width, k0 > 0,
            s.grad_q + q0 * width, width);
      transpose_rounded(s.scores, kKeys, queries, keys, s.weights_t, kTransposedStride);
      transpose_rounded(s.slopes, kKeys, queries, keys, s.slopes_t, kTransposedStride);
      const int64_t depth = round_up(queries, kStep);
      times(panels, keys, s.weights_t, kTransposedStride, depth, s.grad_rows, width, q0 > 0, s.grad_v + k0 * width,
            width);
      times(panels, keys, s.slopes_t, kTransposedStride, depth, s.q_rows, width, q0 > 0, s.grad_k + k0 * width, width);
    }
  }
};

}  // namespace
