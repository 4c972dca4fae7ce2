// What the folder of a CrossEncoder, sentence-transformers' class for pairs of texts, says of its texts and scores, as
// squeezebert_fast/loading/cross_encoder.py reads it.
#pragma once
#include <string>

namespace squeezebert {

struct CrossEncoder {
  // What makes scores of logits: none where the folder doesn't say that it is one.
  enum class Activation { none, identity, sigmoid, tanh } activation = Activation::none;
  std::string prompt;  // before the first text
};

// Throws Error: UNSUPPORTED for another activation, BAD_FILE for a damaged file.
CrossEncoder read_cross_encoder(const std::string& folder);

}  // namespace squeezebert
