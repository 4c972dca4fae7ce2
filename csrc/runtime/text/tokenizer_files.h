// A tokenizer's folder, as transformers 4 and 5 and the Python package write it:
//
// tokenizer.json           vocabulary, added tokens and the whole pipeline
// tokenizer_config.json    options and special tokens
// vocab.txt                the vocabulary alone
// special_tokens_map.json  special tokens, for transformers 4
// added_tokens.json        ids of the tokens after the vocabulary, for transformers 4
#pragma once
#include <array>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "added_tokens.h"
#include "tokenizer.h"
#include "vocabulary.h"

namespace squeezebert {

// As a file says it: the spelling alone, or flags too.
using SpecialToken = std::variant<std::string, AddedToken>;

const std::string& spelling(const SpecialToken& token);

// The tokens that have a name, in the order in which they are added.
enum NamedToken { kBos, kEos, kUnknown, kSeparator, kPadding, kClassification, kMask, kNamedTokens };
constexpr std::array<const char*, kNamedTokens> kTokenNames = {"bos_token", "eos_token", "unk_token", "sep_token",
                                                               "pad_token", "cls_token", "mask_token"};

struct TokenizerFiles {
  Vocabulary vocabulary;
  std::map<int64_t, AddedToken> added;  // by id
  std::array<std::optional<SpecialToken>, kNamedTokens> named;
  std::vector<SpecialToken> extra;  // special tokens without a name
  bool lower_case = true;
  std::optional<bool> strip_accents;  // nothing: as lower_case
  bool split_chinese = true;
  bool split_special_tokens = false;  // those that a text has are ordinary text
  bool truncate_left = false;
  int64_t model_max_length = Tokenizer::kUnlimited;
  std::vector<std::string> never_split;
};

// Options and special tokens come from tokenizer_config.json, what it leaves out from the other files, as in the Python
// package (squeezebert_fast/tokenization/files.py). Throws Error for a file that is missing, damaged, or of another
// kind of tokenizer.
TokenizerFiles read_tokenizer_files(const std::string& folder);

}  // namespace squeezebert
