// What a sentence-transformers folder says of making a vector from a text, as
// squeezebert_fast/loading/sentence_folder.py reads it.
#pragma once
#include <cstdint>
#include <optional>
#include <string>

namespace squeezebert {

struct SentenceFolder {
  std::string transformer;   // the folder with the model
  bool is_one = false;       // else a plain model folder, whose tokens are averaged
  bool first_token = false;  // in place of their mean
  bool normalize = false;
  std::optional<int64_t> max_length;
  std::string prompt;  // before each text
  std::string beyond;  // what of it this library can't do, in words; "" for nothing
};

// Throws Error for a damaged file.
SentenceFolder read_sentence_folder(const std::string& folder);

}  // namespace squeezebert
