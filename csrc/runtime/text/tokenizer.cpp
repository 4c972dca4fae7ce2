#include "tokenizer.h"

#include <algorithm>
#include <functional>
#include <map>
#include <utility>

#include "../status.h"
#include "added_tokens.h"
#include "id_sink.h"
#include "normalizer.h"
#include "tokenizer_files.h"
#include "unicode.h"
#include "utf8.h"
#include "vocabulary.h"
#include "word_pieces.h"

namespace squeezebert {
namespace {

constexpr size_t kChunk = 1 << 14;  // bytes of text, normalized at a time: memory doesn't grow with the text

// The end of a part of `text` from `begin` on that may be normalized by itself: some whitespace, or the text's end.
size_t chunk_end(std::string_view text, size_t begin) {
  if (text.size() - begin <= kChunk) return text.size();
  for (size_t at = begin + kChunk; at < text.size(); ++at) {
    if (text[at] == ' ' || text[at] == '\n') return at;
  }
  return text.size();
}

bool has_whitespace(std::string_view text) {
  for (size_t at = 0; at < text.size();) {
    if (character_classes(next_code_point(text, &at)) & kWhitespace) return true;
  }
  return false;
}

AddedToken made_special(const SpecialToken& token) {
  const auto* added = std::get_if<AddedToken>(&token);
  AddedToken result = added ? *added : AddedToken{};
  if (!added) result.content = std::get<std::string>(token);
  result.special = true;
  return result;
}

// How many ids of two texts fit into `room`, the longer text shortened first.
std::pair<int64_t, int64_t> longest_first(int64_t first, int64_t second, int64_t room) {
  if (first + second <= room) return {first, second};
  int64_t shorter = std::min(first, second);
  if (2 * shorter > room) shorter = room / 2;  // the longer one would be cut below it
  return first <= second ? std::pair{shorter, room - shorter} : std::pair{room - shorter, shorter};
}

}  // namespace

struct Tokenizer::Parts {
  Parts(const std::string& from, TokenizerFiles files)
      : folder(from),
        vocabulary(std::move(files.vocabulary)),
        normalizer(files.lower_case, files.strip_accents.value_or(files.lower_case), files.split_chinese),
        pieces(vocabulary.table(), id_in_vocabulary(*this, files)),
        split_special_tokens(files.split_special_tokens),
        truncate_left(files.truncate_left),
        model_max_length(files.model_max_length),
        size(vocabulary.size()) {
    for (const auto& [id, token] : files.added) add(token);
    add_special_tokens(files);
    separator = needed(files, kSeparator);
    classification = needed(files, kClassification);
    padding = id_of(files, kPadding);
    mask = id_of(files, kMask);
    find_patterns();
    for (const std::string& word : files.never_split) {
      if (has_whitespace(word)) {
        throw Error(SQUEEZEBERT_UNSUPPORTED, folder + ": never_split has " + quoted(word) + "; expected no whitespace");
      }
      const int64_t id = id_of(word);
      kept[word] = id >= 0 ? id : id_of(files, kUnknown);
    }
  }

  Parts(const Parts&) = delete;
  Parts& operator=(const Parts&) = delete;

  static int64_t id_in_vocabulary(const Parts& parts, const TokenizerFiles& files) {
    const auto& unknown = files.named[kUnknown];
    const int64_t id = unknown ? parts.vocabulary.find(spelling(*unknown)) : -1;
    if (id < 0) {
      throw Error(SQUEEZEBERT_BAD_FILE, parts.folder + ": the vocabulary has no " +
                                            (unknown ? quoted(spelling(*unknown)) + " " : "") +
                                            "unknown token (unk_token)");
    }
    return id;
  }

  int64_t id_of(const std::string& token) const {
    const auto found = added_ids.find(token);
    return found != added_ids.end() ? found->second : vocabulary.find(token);
  }

  int64_t id_of(const TokenizerFiles& files, NamedToken name) const {
    return files.named[name] ? id_of(spelling(*files.named[name])) : -1;
  }

  int64_t needed(const TokenizerFiles& files, NamedToken name) const {
    const int64_t id = id_of(files, name);
    if (id >= 0) return id;
    throw Error(SQUEEZEBERT_BAD_FILE, folder + ": the tokenizer has no " + kTokenNames[name] + ", which is needed");
  }

  // A token that the vocabulary lacks gets the next free id.
  void add(const AddedToken& token) {
    int64_t id = id_of(token.content);
    if (id < 0) id = size;
    size = std::max(size, id + 1);
    added_ids[token.content] = id;
    added[id] = token;
  }

  void add_special_tokens(const TokenizerFiles& files) {
    std::vector<SpecialToken> tokens;
    for (const auto& token : files.named) {
      if (token) tokens.push_back(*token);
    }
    tokens.insert(tokens.end(), files.extra.begin(), files.extra.end());
    for (const SpecialToken& token : tokens) {
      // An added token keeps its flags, unless it is given with flags of its own.
      const auto known = added_ids.find(spelling(token));
      const bool is_special = known != added_ids.end() && added.at(known->second).special;
      if (!is_special || std::holds_alternative<AddedToken>(token)) add(made_special(token));
    }
  }

  // Of tokens that are the same once normalized, the one with the lowest id is searched for in normalized text. The
  // others are found where they are spelled exactly so, and so are those of which normalizing leaves nothing.
  void find_patterns() {
    std::map<std::string, int64_t> firsts;
    for (const auto& [id, token] : added) {
      std::string pattern = token.is_normalized() ? normalizer(token.content) : std::string();
      if (!pattern.empty() && firsts.emplace(pattern, id).second) {
        patterns[id] = pattern;
        in_normalized.add(std::move(pattern), id, token);
      } else {
        patterns[id] = token.content;
        in_text.add(token.content, id, token);
      }
    }
    in_text.finish();
    in_normalized.finish();
  }

  // The ids of a text, but for the words of never_split.
  void tokenize(std::string_view text, bool may_stop, IdSink* ids) const {
    in_text.split(
        text, split_special_tokens, [&](std::string_view plain) { tokenize_plain(plain, may_stop, ids); },
        [&](int64_t id) { ids->put(id); });
  }

  void tokenize_plain(std::string_view text, bool may_stop, IdSink* ids) const {
    if (!in_normalized.empty()) {  // such a token may hold whitespace, so that the text can't be cut
      in_normalized.split(
          normalizer(text), split_special_tokens, [&](std::string_view plain) { pieces.cut(plain, ids); },
          [&](int64_t id) { ids->put(id); });
      return;
    }
    for (size_t at = 0; at < text.size() && !(may_stop && ids->is_full());) {
      const size_t end = chunk_end(text, at);
      pieces.cut(normalizer(text.substr(at, end - at)), ids);
      at = end;
    }
  }

  // A word of never_split is kept where it stands between whitespace or the text's ends.
  void tokenize_but_kept(std::string_view text, bool may_stop, IdSink* ids) const {
    size_t begin = 0, word = 0;
    for (size_t at = 0; at <= text.size();) {
      size_t after = at;
      const bool ends = at == text.size() || (character_classes(next_code_point(text, &after)) & kWhitespace);
      if (ends) {
        const auto found = kept.find(text.substr(word, at - word));
        if (found != kept.end()) {
          tokenize(text.substr(begin, word - begin), may_stop, ids);
          ids->put(found->second);
          begin = at;
        }
        word = after;
      }
      at = at == text.size() ? at + 1 : after;
    }
    tokenize(text.substr(begin), may_stop, ids);
  }

  std::string folder;  // for messages
  Vocabulary vocabulary;
  Normalizer normalizer;
  WordPieces pieces;
  bool split_special_tokens, truncate_left;
  int64_t model_max_length;
  int64_t size;
  int64_t separator, classification, padding, mask;
  std::map<int64_t, AddedToken> added;
  std::map<std::string, int64_t> added_ids;  // trees: hash tables of std degrade where tokens are chosen to collide
  std::map<int64_t, std::string> patterns;   // what added tokens are found as, and written as
  AddedTokenFinder in_text, in_normalized;
  std::map<std::string, int64_t, std::less<>> kept;  // words of never_split
};

Tokenizer::Tokenizer(const std::string& folder)
    : parts_(std::make_unique<const Parts>(folder, read_tokenizer_files(folder))) {}
Tokenizer::~Tokenizer() = default;
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;

Encoding Tokenizer::encode(std::string_view text, const std::string_view* second, int64_t max_length) const {
  const int64_t special = second ? 3 : 2;
  if (max_length < special) {
    throw Error(SQUEEZEBERT_INVALID_ARGUMENT,
                "max_length is " + std::to_string(max_length) + "; expected at least " + std::to_string(special));
  }
  for (const std::string_view* each = &text; each != nullptr; each = each == second ? nullptr : second) {
    const size_t malformed = find_malformed(*each);
    if (malformed == each->npos) continue;
    throw Error(SQUEEZEBERT_BAD_TEXT, std::string(each == second ? "the second text" : "the text") +
                                          " isn't UTF-8: byte " + std::to_string(malformed) + " is malformed");
  }
  const int64_t room = max_length - special;
  const bool left = parts_->truncate_left;
  IdSink first_ids(room, left), second_ids(room, left);
  // What is cut off two texts depends on which is longer, so that all of their ids count.
  const auto tokenize = [&](std::string_view each, IdSink* ids) {
    if (parts_->kept.empty()) return parts_->tokenize(each, second == nullptr, ids);
    parts_->tokenize_but_kept(each, second == nullptr, ids);
  };
  tokenize(text, &first_ids);
  if (second) tokenize(*second, &second_ids);
  const auto [from_first, from_second] = longest_first(first_ids.count(), second_ids.count(), room);

  Encoding row;
  const auto put = [&](const int64_t* ids, int64_t count, int64_t type) {
    row.ids.insert(row.ids.end(), ids, ids + count);
    row.token_types.insert(row.token_types.end(), static_cast<size_t>(count), type);
  };
  put(&parts_->classification, 1, 0);
  put(first_ids.part(from_first), from_first, 0);
  put(&parts_->separator, 1, 0);
  if (second) {
    put(second_ids.part(from_second), from_second, 1);
    put(&parts_->separator, 1, 1);
  }
  return row;
}

int64_t Tokenizer::size() const { return parts_->size; }
int64_t Tokenizer::model_max_length() const { return parts_->model_max_length; }
int64_t Tokenizer::mask_id() const { return parts_->mask; }
int64_t Tokenizer::pad_id() const { return parts_->padding; }

std::optional<std::string_view> Tokenizer::token(int64_t id) const {
  const auto found = parts_->patterns.find(id);
  if (found != parts_->patterns.end()) return found->second;
  return parts_->vocabulary.token(id);
}

}  // namespace squeezebert
