#include "added_tokens.h"

#include <algorithm>

#include "../status.h"
#include "unicode.h"
#include "utf8.h"

namespace squeezebert {
namespace {

unsigned char byte_at(const std::string& text, size_t at) { return static_cast<unsigned char>(text[at]); }

bool is_word_after(std::string_view text, size_t at) {
  return at < text.size() && (character_classes(next_code_point(text, &at)) & kWord);
}

bool is_word_before(std::string_view text, size_t at) {
  size_t begin;
  return at > 0 && (character_classes(code_point_before(text, at, &begin)) & kWord);
}

// Where the whitespace that ends at `end` begins, not before `start`.
size_t without_space_before(std::string_view text, size_t start, size_t end) {
  while (end > start) {
    size_t begin;
    if ((character_classes(code_point_before(text, end, &begin)) & kWhitespace) == 0) break;
    end = begin;
  }
  return std::max(start, end);
}

size_t without_space_after(std::string_view text, size_t at) {
  while (at < text.size()) {
    size_t after = at;
    if ((character_classes(next_code_point(text, &after)) & kWhitespace) == 0) break;
    at = after;
  }
  return at;
}

}  // namespace

void AddedTokenFinder::add(std::string pattern, int64_t id, const AddedToken& token) {
  if (pattern.size() > kMostBytes) {
    throw Error(SQUEEZEBERT_UNSUPPORTED, "the added token " + quoted(pattern) + " has " +
                                             std::to_string(pattern.size()) + " bytes; expected at most " +
                                             std::to_string(kMostBytes));
  }
  tokens_.push_back({std::move(pattern), id, token.single_word, token.left_strip, token.right_strip, token.special});
}

void AddedTokenFinder::finish() {
  std::stable_sort(tokens_.begin(), tokens_.end(),
                   [](const Token& a, const Token& b) { return a.pattern < b.pattern; });
  // Of equal ones the last stays.
  const auto first_kept = std::unique(tokens_.rbegin(), tokens_.rend(),
                                      [](const Token& a, const Token& b) { return a.pattern == b.pattern; });
  tokens_.erase(tokens_.begin(), first_kept.base());
  size_t index = 0;
  for (size_t byte = 0; byte < by_first_byte_.size(); ++byte) {
    while (index < tokens_.size() && byte_at(tokens_[index].pattern, 0) < byte) ++index;
    by_first_byte_[byte] = index;
  }
}

bool AddedTokenFinder::next(std::string_view text, bool ignore_special, size_t start, Match* match) const {
  if (tokens_.empty()) return false;
  for (size_t at = match->searched; at < text.size();) {
    const Token* token = longest_at(text, at);
    if (token == nullptr) {
      ++at;  // a pattern begins where a code point does, so that none matches within one
      continue;
    }
    const size_t end = at + token->pattern.size();
    const bool counts = !(ignore_special && token->special) &&
                        !(token->single_word && (is_word_before(text, at) || is_word_after(text, end)));
    if (counts) {
      match->begin = token->left_strip ? without_space_before(text, start, at) : at;
      match->end = token->right_strip ? without_space_after(text, end) : end;
      match->token = token;
      match->searched = end;
      return true;
    }
    at = end;
  }
  return false;
}

const AddedTokenFinder::Token* AddedTokenFinder::longest_at(std::string_view text, size_t at) const {
  const auto first_byte = static_cast<unsigned char>(text[at]);
  // Those of the sorted patterns that begin as the text does, a byte longer each time.
  size_t begin = by_first_byte_[first_byte], end = by_first_byte_[first_byte + 1u];
  const Token* longest = nullptr;
  for (size_t length = 1; begin < end; ++length) {
    if (tokens_[begin].pattern.size() == length) longest = &tokens_[begin++];  // the shortest is the first
    if (at + length >= text.size()) break;
    const auto wanted = static_cast<unsigned char>(text[at + length]);
    const auto first = tokens_.begin();
    begin = std::partition_point(first + begin, first + end,
                                 [&](const Token& each) { return byte_at(each.pattern, length) < wanted; }) -
            first;
    end = std::partition_point(first + begin, first + end,
                               [&](const Token& each) { return byte_at(each.pattern, length) <= wanted; }) -
          first;
  }
  return longest;
}

}  // namespace squeezebert
