// Embeddings and encoder: from ids to hidden states.
#pragma once
#include <cstdint>
#include <optional>
#include <vector>

#include "../core/encoder/encoder.h"
#include "config.h"
#include "dense.h"

namespace squeezebert {

class Body {
 public:
  // Packs the encoder's weights; tables and norms of the embeddings stay in `weights`, which must live as long.
  Body(const Config& config, Weights& weights, const Engine& engine, int threads);

  // The last hidden state, [count, channels]. token_types: null for 0, and whatever they are in a model without a table
  // of them. Throws Error for an id without a row in its table.
  void run(const int64_t* ids, const int64_t* token_types, int64_t count, float* states, int threads) const;

 private:
  void add_layer(const Config& config, Weights& weights, int64_t index);

  const Engine engine_;
  const int64_t channels_, embedding_channels_;
  std::vector<float> no_types_;  // zeros, where there is no table of token types
  Embeddings embeddings_{};      // but for what a call brings
  std::optional<Dense> projection_;
  std::optional<Encoder> encoder_;  // none where there is no layer
};

}  // namespace squeezebert
