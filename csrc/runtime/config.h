// A model's config.json, as far as it says what to compute.
#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "../kernels/kernel_table.h"
#include "layout.h"
#include "squeezebert.h"

namespace squeezebert {

enum class Head { none, labels, words };

struct Groups {
  int64_t query = 1, key = 1, value = 1, post_attention = 1, intermediate = 1, output = 1;
};

struct Config {
  const Layout* layout;
  std::string architecture;  // "" where the file names none
  Head head;
  int64_t words, positions, token_types;  // rows of the tables; without token types one, of zeros
  int64_t embedding_channels, channels, layers, heads, hidden;
  Groups groups;
  Activation activation;
  float embeddings_eps, layer_eps;
  std::vector<std::string> labels;
  squeezebert_kind kind;                // of the labels
  std::optional<int64_t> usual_length;  // tokens at which training cut texts
  bool decoder_is_tied;                 // to the word embeddings
};

// Of folder/config.json. Throws Error: BAD_FILE for values that make no model, UNSUPPORTED for models of other kinds.
Config read_config(const std::string& folder);

}  // namespace squeezebert
