#include "vocabulary.h"

#include <algorithm>

#include "../status.h"
#include "read_file.h"
#include "unicode.h"
#include "utf8.h"

namespace squeezebert {
namespace {

constexpr size_t kMostBytes = 64 << 20;
constexpr int64_t kMostUnusedIds = 1000000;  // each takes memory; a damaged file may name any id

// Whitespace at a line's end is dropped, as by the Rust library; a line of whitespace alone is a token.
std::string_view token_of(std::string_view line) {
  if (!line.empty() && line.back() == '\r') line.remove_suffix(1);
  size_t end = line.size();
  while (end > 0) {
    size_t begin;
    if ((character_classes(code_point_before(line, end, &begin)) & kWhitespace) == 0) break;
    end = begin;
  }
  return end > 0 ? line.substr(0, end) : line;
}

}  // namespace

Vocabulary::Vocabulary(std::unique_ptr<const std::string> text, const std::vector<std::string_view>& tokens,
                       const std::vector<int64_t>& ids)
    : text_(std::move(text)), table_(tokens, ids) {
  by_id_.resize(static_cast<size_t>(*std::max_element(ids.begin(), ids.end())) + 1);
  for (size_t index = 0; index < tokens.size(); ++index) {
    const bool counts = table_.find(tokens[index]) == ids[index];
    if (counts) by_id_[static_cast<size_t>(ids[index])] = tokens[index];
  }
}

Vocabulary Vocabulary::read_lines(const std::string& path) {
  auto text = std::make_unique<const std::string>(read_file(path, kMostBytes));
  std::string_view rest = *text;
  const size_t malformed = find_malformed(rest);
  if (malformed != rest.npos) {
    throw Error(SQUEEZEBERT_BAD_FILE,
                "the vocabulary " + path + " isn't UTF-8: byte " + std::to_string(malformed) + " is malformed");
  }
  constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";
  if (rest.substr(0, kByteOrderMark.size()) == kByteOrderMark) rest.remove_prefix(kByteOrderMark.size());
  if (rest.find_first_not_of("\r\n") == rest.npos) {
    throw Error(SQUEEZEBERT_BAD_FILE, "the vocabulary " + path + " is empty; expected one token a line");
  }
  if (rest.back() == '\n') rest.remove_suffix(1);
  std::vector<std::string_view> tokens;
  tokens.reserve(static_cast<size_t>(std::count(rest.begin(), rest.end(), '\n')) + 1);
  for (bool more = true; more;) {
    const size_t end = rest.find('\n');
    more = end != rest.npos;
    tokens.push_back(token_of(rest.substr(0, end)));
    if (more) rest.remove_prefix(end + 1);
  }
  std::vector<int64_t> ids(tokens.size());
  for (size_t index = 0; index < ids.size(); ++index) ids[index] = static_cast<int64_t>(index);
  return Vocabulary(std::move(text), tokens, ids);
}

Vocabulary Vocabulary::of_object(const JsonValue& object) {
  size_t bytes = 0;
  object.for_each_member([&](std::string_view token, const JsonValue&) { bytes += token.size(); });
  if (object.size() == 0)
    throw Error(SQUEEZEBERT_BAD_FILE, object.place() + " is empty; expected tokens and their ids");
  const auto count = static_cast<int64_t>(object.size());
  auto text = std::make_unique<std::string>();
  text->reserve(bytes);
  std::vector<std::string_view> tokens;
  std::vector<int64_t> ids;
  tokens.reserve(object.size());
  ids.reserve(object.size());
  std::vector<bool> taken(object.size() + kMostUnusedIds);
  object.for_each_member([&](std::string_view token, const JsonValue& value) {
    const int64_t id = value.integer(0, count + kMostUnusedIds - 1);
    if (taken[static_cast<size_t>(id)]) value.refuse("an id of its own");
    taken[static_cast<size_t>(id)] = true;
    tokens.emplace_back(text->data() + text->size(), token.size());  // which never moves: it has its whole capacity
    text->append(token);
    ids.push_back(id);
  });
  return Vocabulary(std::move(text), tokens, ids);
}

std::optional<std::string_view> Vocabulary::token(int64_t id) const {
  if (id < 0 || id >= size()) return std::nullopt;
  const std::string_view token = by_id_[static_cast<size_t>(id)];
  if (token.data() == nullptr) return std::nullopt;
  return token;
}

}  // namespace squeezebert
