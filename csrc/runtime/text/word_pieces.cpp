#include "word_pieces.h"

#include <array>

#include "unicode.h"
#include "utf8.h"

namespace squeezebert {
namespace {

constexpr std::string_view kContinuation = "##";

}  // namespace

void WordPieces::cut(std::string_view normalized, IdSink* ids) const {
  size_t begin = 0;
  int characters = 0;
  const auto end_word = [&](size_t end) {
    if (begin < end) cut_word(normalized.substr(begin, end - begin), characters, ids);
    begin = end;
    characters = 0;
  };
  for (size_t at = 0; at < normalized.size();) {
    const size_t here = at;
    const char32_t code = next_code_point(normalized, &at);
    if (code == U' ') {
      end_word(here);
      begin = at;
    } else if (character_classes(code) & kPunctuation) {
      end_word(here);
      characters = 1;
      end_word(at);
    } else if (characters <= kMostCharacters) {
      ++characters;
    }
  }
  end_word(normalized.size());
}

void WordPieces::cut_word(std::string_view word, int characters, IdSink* ids) const {
  if (characters > kMostCharacters) return ids->put(unknown_);
  std::array<int64_t, kMostCharacters> pieces;
  int count = 0;
  for (size_t start = 0; start < word.size();) {
    // Longest match first. Prefixes are tried from the shortest on, since each one's hash goes on from the last one's.
    const std::string_view prefix = start == 0 ? std::string_view() : kContinuation;
    TokenTable::Hash hash = table_.begin_hash();
    hash.add(prefix);
    int64_t longest = -1;
    size_t stop = start;
    for (size_t at = start; at < word.size() && prefix.size() + at - start < table_.longest();) {
      do {
        hash.add(word[at++]);
      } while (at < word.size() && !begins_code_point(word[at]));
      const int64_t id = table_.find(hash, prefix, word.substr(start, at - start));
      if (id < 0) continue;
      longest = id;
      stop = at;
    }
    if (longest < 0) return ids->put(unknown_);
    pieces[count++] = longest;
    start = stop;
  }
  for (int index = 0; index < count; ++index) ids->put(pieces[index]);
}

}  // namespace squeezebert
