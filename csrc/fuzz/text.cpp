// Texts, by a tokenizer with every kind of added token. The first byte says how, the rest is the text; what follows a
// byte 0xFE is the second one.
#include <algorithm>
#include <memory>
#include <string>

#include "../runtime/text/normalizer.h"
#include "../runtime/text/tokenizer.h"
#include "../runtime/text/utf8.h"
#include "support.h"

namespace {

using namespace squeezebert;
using fuzz::answers;
using fuzz::require;

constexpr const char* kVocabulary =
    "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nhello\nun\n##aff\n##able\n##s\na\n##a\nb\n##b\naa\n##aa\naaa\n##aab\n!\n#\n,\n"
    "e\nz\n##u\n##rich\nzurich\n\xE4\xB8\xAD\n##\xE6\x96\x87\n\xCC\xA7\n##\xCC\xA7\n##i\xCC\x87\ni\n";

std::unique_ptr<const Tokenizer> make_tokenizer(bool lower_case, bool left) {
  fuzz::Folder folder;
  folder.write("vocab.txt", kVocabulary);
  folder.write("tokenizer_config.json", std::string(R"({"added_tokens_decoder": {
      "4": {"content": "[MASK]", "special": true, "lstrip": true},
      "32": {"content": "Zürich", "single_word": true}, "33": {"content": "[ENT]", "special": true, "rstrip": true},
      "34": {"content": "a b", "lstrip": true, "rstrip": true}, "35": {"content": "aaab"}, "36": {"content": "́"}},
      "never_split": ["Foo", "aa"], "truncation_side": ")") +
                                            (left ? "left" : "right") + R"(", "do_lower_case": )" +
                                            (lower_case ? "true}" : "false}"));
  return std::make_unique<const Tokenizer>(folder.path());
}

bool is_whole(std::string_view text) { return find_malformed(text) == text.npos; }

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const std::unique_ptr<const Tokenizer> tokenizers[] = {
      make_tokenizer(false, false), make_tokenizer(false, true), make_tokenizer(true, false),
      make_tokenizer(true, true)};
  if (size == 0) return 0;
  const unsigned how = data[0];
  const bool left = how & 1;
  const Tokenizer& tokenizer = *tokenizers[how & 3];
  const std::string_view all = fuzz::text_of(data + 1, size - 1);
  const size_t cut = all.find('\xFE');
  const std::string_view text = all.substr(0, cut);
  const std::string_view second = cut == all.npos ? std::string_view() : all.substr(cut + 1);
  const std::string_view* pair = cut == all.npos ? nullptr : &second;

  if (is_whole(text)) {
    const Normalizer normalizer(how & 4, how & 8, how & 16);
    require(is_whole(normalizer(text)), "normalized text isn't UTF-8");
  }
  Encoding whole;
  const bool encoded = answers([&] { whole = tokenizer.encode(text, pair, Tokenizer::kUnlimited); });
  require(encoded == (is_whole(text) && is_whole(second)), "text was refused, or wasn't");
  if (!encoded) return 0;
  require(whole.ids.size() == whole.token_types.size(), "a row has another number of types than of ids");
  for (const int64_t id : whole.ids) require(tokenizer.token(id).has_value(), "an id has no token");

  const int64_t most = 3 + (how >> 5);
  Encoding row;
  answers([&] { row = tokenizer.encode(text, pair, most); });
  const auto length = static_cast<int64_t>(row.ids.size());
  require(length == std::min<int64_t>(most, static_cast<int64_t>(whole.ids.size())),
          "a row isn't as long as it could be");
  if (pair == nullptr) {  // its ids are the first or last of the whole row
    const auto kept = row.ids.begin() + 1;
    const auto from = left ? whole.ids.end() - (length - 1) : whole.ids.begin() + 1;
    require(std::equal(kept, row.ids.end() - 1, from), "a row was cut elsewhere than at its end");
  }
  return 0;
}
