// Tokens that are found in a text as they are, before it is cut into words: [MASK], and what a user added.
#pragma once
#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace squeezebert {

// As the Rust library tokenizers has it.
struct AddedToken {
  std::string content;
  bool single_word = false;  // not beside a word character
  bool left_strip = false;   // takes the whitespace before it
  bool right_strip = false;
  bool special = false;
  std::optional<bool> normalized;  // is searched for in the normalized text; by default unless it is special

  bool is_normalized() const { return normalized.value_or(!special); }
};

// Cuts texts at added tokens: the leftmost match wins, at one place the longest.
class AddedTokenFinder {
 public:
  // Bounds the time that a text takes for each of its bytes.
  static constexpr size_t kMostBytes = 256;

  // The token is found as `pattern`, which isn't empty; of equal patterns the last counts. Throws Error for a longer
  // pattern than kMostBytes.
  void add(std::string pattern, int64_t id, const AddedToken& token);
  void finish();  // after the last, before the first visit

  bool empty() const { return tokens_.empty(); }

  // Calls plain(part) for what is no added token, and found(id) for what is, in order. `text` is valid UTF-8.
  // ignore_special: special tokens are ordinary text.
  template <class Plain, class Found>
  void split(std::string_view text, bool ignore_special, Plain plain, Found found) const {
    size_t start = 0;
    for (Match match; next(text, ignore_special, start, &match);) {
      if (start < match.begin) plain(text.substr(start, match.begin - start));
      found(match.token->id);
      start = match.end;
    }
    if (start < text.size()) plain(text.substr(start));
  }

 private:
  struct Token {
    std::string pattern;
    int64_t id;
    bool single_word, left_strip, right_strip, special;
  };
  // Of a token that counts: begin and end with the whitespace that it takes.
  struct Match {
    size_t begin = 0, end = 0;
    const Token* token = nullptr;
    size_t searched = 0;  // up to here the text was looked at
  };

  bool next(std::string_view text, bool ignore_special, size_t start, Match* match) const;
  const Token* longest_at(std::string_view text, size_t at) const;

  std::vector<Token> tokens_;                // sorted by pattern
  std::array<size_t, 257> by_first_byte_{};  // where the patterns begin whose first byte is the index
};

}  // namespace squeezebert
