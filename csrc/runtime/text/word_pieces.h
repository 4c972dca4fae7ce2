// WordPiece: words of normalized text, cut into the longest pieces that the vocabulary knows.
#pragma once
#include <cstdint>
#include <string_view>

#include "id_sink.h"
#include "token_table.h"

namespace squeezebert {

class WordPieces {
 public:
  static constexpr int kMostCharacters = 100;  // longer words become the unknown token, as in Python

  // The table must outlive it.
  WordPieces(const TokenTable& table, int64_t unknown) : table_(table), unknown_(unknown) {}

  // The ids of the words in valid, normalized UTF-8: between spaces, punctuation apart.
  void cut(std::string_view normalized, IdSink* ids) const;

 private:
  void cut_word(std::string_view word, int characters, IdSink* ids) const;

  const TokenTable& table_;
  int64_t unknown_;
};

}  // namespace squeezebert
