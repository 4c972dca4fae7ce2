// y = layer_norm(word + position + token type): gather, sum and normalisation in one pass over the row.
// Included by the instruction-set builds alone.
#pragma once
#include "add_layer_norm.h"

namespace {

using squeezebert::Embeddings;

// A row of a table, added to y or, for the first table, written there.
inline void add_table_row(const Embeddings::Table& table, int64_t id, int64_t channels, bool first, float* y) {
  const float* row = table.quantized ? nullptr : table.rows + id * channels;
  const Int8Scale rounding = table.rounded ? int8_scale(row, channels) : Int8Scale{};
  for_each_vector(channels, [&](int64_t i, int lanes) {
    Vec v;
    if (table.quantized) {
      const int8_t* from = table.quantized + id * channels + i;
      if (lanes == kLanes) {
        v = load_ints(from);
      } else {
        int8_t rest[kLanes] = {};
        __builtin_memcpy(rest, from, static_cast<unsigned>(lanes));
        v = load_ints(rest);
      }
      v = v * broadcast(table.scale[id]);
    } else {
      v = load_lanes(row + i, lanes);
      if (table.rounded) v = round_nearest(v * broadcast(rounding.inverse)) * broadcast(rounding.scale);
    }
    store_lanes(y + i, first ? v : load_lanes(y + i, lanes) + v, lanes);
  });
}

inline void embeddings(const Embeddings& e, Rows rows) {
  const AddLayerNorm norm{e.norm_weight, e.norm_bias, e.eps, e.channels, nullptr, 0, nullptr, 0, {}};
  for (int64_t r = rows.begin; r < rows.end; ++r) {
    float* y = e.y + r * e.channels;
    const int64_t ids[] = {e.ids[0][r], e.ids[1] ? e.ids[1][r] : r % e.tokens, e.ids[2] ? e.ids[2][r] : 0};
    for (int t = 0; t < 3; ++t) add_table_row(e.tables[t], ids[t], e.channels, t == 0, y);
    normalize_row(y, nullptr, norm);
  }
}

}  // namespace
