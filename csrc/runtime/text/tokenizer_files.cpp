#include "tokenizer_files.h"

#include <sys/stat.h>

#include <algorithm>
#include <charconv>
#include <system_error>

#include "../status.h"
#include "json.h"
#include "utf8.h"

namespace squeezebert {
namespace {

constexpr size_t kMostPipelineBytes = 32 << 20;
constexpr size_t kMostConfigBytes = 8 << 20;

// Of tokenizers that aren't WordPiece, to say so where there is nothing else.
constexpr const char* kOtherVocabularies[] = {"merges.txt", "vocab.json",     "spiece.model", "sentencepiece.bpe.model",
                                              "spm.model",  "tokenizer.model"};

const JsonValue* if_not_null(const std::optional<JsonValue>& value) {
  return value && !value->is_null() ? &*value : nullptr;
}

[[noreturn]] void unsupported(const JsonValue& value, const std::string& expected) {
  throw Error(SQUEEZEBERT_UNSUPPORTED, value.place() + " is " + value.summary() + "; expected " + expected);
}

std::string checked_content(std::string_view content, const JsonValue& place) {
  if (content.empty()) place.refuse("at least one character");
  return std::string(content);
}

AddedToken read_added_token(const JsonValue& value) {
  AddedToken token;
  const JsonValue content = value.at("content");
  token.content = checked_content(content.string(), content);
  const auto flag = [&](const char* name, bool* into) {
    if (const auto found = value.find(name)) *into = found->boolean();
  };
  flag("single_word", &token.single_word);
  flag("lstrip", &token.left_strip);
  flag("rstrip", &token.right_strip);
  flag("special", &token.special);
  if (const auto found = value.find("normalized")) token.normalized = found->boolean();
  return token;
}

SpecialToken read_special_token(const JsonValue& value) {
  if (value.is_object()) return read_added_token(value);
  if (!value.is_string()) value.refuse("a token, or an object with its content");
  return checked_content(value.string(), value);
}

int64_t id_of_name(std::string_view name, const JsonValue& place) {
  int64_t id = 0;
  const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), id);
  if (error != std::errc() || end != name.data() + name.size()) {
    throw Error(SQUEEZEBERT_BAD_FILE, place.place() + " has the id " + quoted(name) + "; expected a whole number");
  }
  return id;
}

// Reads the files of one folder into `files`, one after the other.
class Reader {
 public:
  explicit Reader(const std::string& folder)
      : folder_(folder),
        pipeline_(Json::read_if_any(folder + "/tokenizer.json", kMostPipelineBytes)),
        config_(Json::read_if_any(folder + "/tokenizer_config.json", kMostConfigBytes)),
        special_(Json::read_if_any(folder + "/special_tokens_map.json", kMostConfigBytes)) {
    if (pipeline_) check_pipeline(pipeline_->root());
  }

  TokenizerFiles read() {
    TokenizerFiles files{read_vocabulary(), {}, default_tokens(), {}, true, {}, true, false, false, 0, {}};
    if (pipeline_) read_pipeline_options(pipeline_->root(), &files);
    files.model_max_length = Tokenizer::kUnlimited;
    if (config_) read_options(config_->root(), &files);
    if (config_) read_special_tokens(config_->root(), true, &files);
    const auto listed = config_ ? config_->root().find("added_tokens_decoder") : std::nullopt;
    if (!listed && special_) read_special_tokens(special_->root(), false, &files);
    read_extra_tokens(!listed, &files);
    if (listed) {
      listed->for_each_member([&](std::string_view id, const JsonValue& token) {
        files.added.insert_or_assign(id_of_name(id, *listed), read_added_token(token));
      });
    } else {
      read_older_added_tokens(&files);
    }
    check_added_ids(files);
    recognize_special_tokens(&files);
    return files;
  }

 private:
  static void check_pipeline(const JsonValue& root) {
    const auto check_kind = [&](const char* part, const char* kind) {
      const JsonValue found = root.at(part);
      if (!found.is_object()) unsupported(found, std::string("a ") + kind);
      const auto type = found.find("type");
      if (type && !(type->is_string() && type->string() == kind)) unsupported(*type, quoted(kind));
      return found;
    };
    const JsonValue model = check_kind("model", "WordPiece");
    const JsonValue normalizer = check_kind("normalizer", "BertNormalizer");
    check_kind("pre_tokenizer", "BertPreTokenizer");
    if (const auto prefix = model.find("continuing_subword_prefix")) {
      if (prefix->string() != "##") unsupported(*prefix, "'##'");
    }
    if (const auto most = model.find("max_input_chars_per_word")) {
      if (most->integer() != 100) unsupported(*most, "100");
    }
    if (const auto clean = normalizer.find("clean_text")) {
      if (!clean->boolean()) unsupported(*clean, "true");
    }
  }

  Vocabulary read_vocabulary() const {
    if (pipeline_) return Vocabulary::of_object(pipeline_->root().at("model").at("vocab"));
    const std::string path = folder_ + "/vocab.txt";
    struct stat about;
    if (stat(path.c_str(), &about) == 0) return Vocabulary::read_lines(path);
    for (const char* name : kOtherVocabularies) {
      if (stat((folder_ + "/" + name).c_str(), &about) != 0) continue;
      throw Error(SQUEEZEBERT_UNSUPPORTED,
                  folder_ + " has " + name + ", of a tokenizer that isn't WordPiece; expected vocab.txt");
    }
    throw Error(SQUEEZEBERT_NOT_FOUND, folder_ + " has neither tokenizer.json nor vocab.txt");
  }

  static std::array<std::optional<SpecialToken>, kNamedTokens> default_tokens() {
    return {std::nullopt, std::nullopt, "[UNK]", "[SEP]", "[PAD]", "[CLS]", "[MASK]"};
  }

  static void read_pipeline_options(const JsonValue& root, TokenizerFiles* files) {
    const JsonValue normalizer = root.at("normalizer");
    if (const auto value = normalizer.find("lowercase")) files->lower_case = value->boolean();
    if (const auto value = normalizer.find("handle_chinese_chars")) files->split_chinese = value->boolean();
    const auto strip = normalizer.find("strip_accents");
    if (const JsonValue* value = if_not_null(strip)) files->strip_accents = value->boolean();
    const auto truncation = root.find("truncation");
    if (truncation && truncation->is_object()) {
      if (const auto side = truncation->find("direction")) read_side(*side, "Left", "Right", files);
    }
  }

  static void read_side(const JsonValue& value, const char* left, const char* right, TokenizerFiles* files) {
    const std::string_view side = value.string();
    if (side != left && side != right) value.refuse(quoted(left) + " or " + quoted(right));
    files->truncate_left = side == left;
  }

  static void read_options(const JsonValue& root, TokenizerFiles* files) {
    const auto option = [&](const char* name, bool* into) {
      const auto found = root.find(name);
      if (const JsonValue* value = if_not_null(found)) *into = value->boolean();
    };
    option("do_lower_case", &files->lower_case);
    option("tokenize_chinese_chars", &files->split_chinese);
    option("split_special_tokens", &files->split_special_tokens);
    if (const auto strip = root.find("strip_accents")) {  // here null is a value
      files->strip_accents = strip->is_null() ? std::nullopt : std::optional<bool>(strip->boolean());
    }
    const auto side = root.find("truncation_side");
    if (const JsonValue* value = if_not_null(side)) read_side(*value, "left", "right", files);
    const auto length = root.find("model_max_length");
    if (const JsonValue* value = if_not_null(length)) files->model_max_length = read_length(*value);
    const auto never = root.find("never_split");
    if (const JsonValue* value = if_not_null(never)) {
      value->for_each_element(
          [&](const JsonValue& word) { files->never_split.push_back(checked_content(word.string(), word)); });
    }
    for (const char* name : {"clean_text", "do_basic_tokenize"}) {
      const auto found = root.find(name);
      const JsonValue* value = if_not_null(found);
      if (value && !value->boolean()) unsupported(*value, "true");
    }
    const auto prefix = root.find("wordpieces_prefix");
    if (const JsonValue* value = if_not_null(prefix)) {
      if (value->string() != "##") unsupported(*value, "'##'");
    }
  }

  // transformers writes 1e30 where there is no limit.
  static int64_t read_length(const JsonValue& value) {
    constexpr double kLarge = 9e18;
    return value.is_number() && value.number() >= kLarge ? Tokenizer::kUnlimited : value.integer(0);
  }

  // of_config: null means the default, but for tokens that a tokenizer may lack; in special_tokens_map.json it means
  // that there is none.
  void read_special_tokens(const JsonValue& root, bool of_config, TokenizerFiles* files) {
    root.for_each_member([&](std::string_view name, const JsonValue& value) {
      const auto* known = std::find(kTokenNames.begin(), kTokenNames.end(), name);
      if (known == kTokenNames.end()) {
        constexpr std::string_view kEnd = "_token";
        const bool is_token = name.size() > kEnd.size() && name.substr(name.size() - kEnd.size()) == kEnd;
        if (of_config && is_token && value.is_string()) unsupported(value, "no token of this name, which BERT lacks");
        return;
      }
      const auto index = known - kTokenNames.begin();
      if (!value.is_null()) {
        files->named[index] = read_special_token(value);
        given_[index] = true;
      } else if (!of_config || index == kPadding || index == kMask) {
        files->named[index] = std::nullopt;
      }
    });
  }

  // transformers 5 calls them extra, transformers 4 additional. What special_tokens_map.json says counts, if it is
  // read.
  void read_extra_tokens(bool with_special, TokenizerFiles* files) const {
    for (const char* name : {"extra_special_tokens", "additional_special_tokens"}) {
      auto found = with_special && special_ ? special_->root().find(name) : std::nullopt;
      if (!found && config_) found = config_->root().find(name);
      const JsonValue* value = if_not_null(found);
      if (value == nullptr) continue;
      const auto add = [&](const JsonValue& token) { files->extra.push_back(read_special_token(token)); };
      if (value->is_object()) {
        value->for_each_member([&](std::string_view, const JsonValue& token) { add(token); });
      } else {
        value->for_each_element(add);
      }
      if (!files->extra.empty()) return;
    }
  }

  void read_older_added_tokens(TokenizerFiles* files) const {
    const auto is_special = [&](const std::string& content) {
      for (size_t index = 0; index < kNamedTokens; ++index) {
        if (given_[index] && files->named[index] && spelling(*files->named[index]) == content) return true;
      }
      return std::any_of(files->extra.begin(), files->extra.end(),
                         [&](const SpecialToken& token) { return spelling(token) == content; });
    };
    if (const auto added = Json::read_if_any(folder_ + "/added_tokens.json", kMostConfigBytes)) {
      added->root().for_each_member([&](std::string_view content, const JsonValue& id) {
        AddedToken token;
        token.content = checked_content(content, id);
        token.special = is_special(token.content);
        files->added.insert_or_assign(id.integer(0), token);
      });
    }
    const auto found = pipeline_ ? pipeline_->root().find("added_tokens") : std::nullopt;
    if (const JsonValue* listed = if_not_null(found)) {
      listed->for_each_element([&](const JsonValue& token) {
        files->added.insert_or_assign(token.at("id").integer(0), read_added_token(token));
      });
    }
  }

  void check_added_ids(const TokenizerFiles& files) const {
    int64_t free = files.vocabulary.size();
    for (const auto& [id, token] : files.added) {
      const int64_t known = files.vocabulary.find(token.content);
      const int64_t expected = known >= 0 ? known : free;
      if (id != expected) {
        throw Error(SQUEEZEBERT_BAD_FILE, folder_ + ": the added token " + quoted(token.content) + " has the id " +
                                              std::to_string(id) + "; expected " + std::to_string(expected) +
                                              (known >= 0 ? ", as in the vocabulary" : ", the next free one"));
      }
      if (known < 0) ++free;
    }
  }

  // Special tokens become the added tokens of that spelling, which know their flags.
  void recognize_special_tokens(TokenizerFiles* files) const {
    std::map<std::string_view, const AddedToken*> added;
    for (const auto& [id, token] : files->added) added[token.content] = &token;
    const auto recognize = [&](SpecialToken* token) {
      const auto known = added.find(spelling(*token));
      if (known != added.end()) *token = *known->second;
      return known != added.end();
    };
    for (SpecialToken& token : files->extra) recognize(&token);
    for (size_t index = 0; index < kNamedTokens; ++index) {
      auto& token = files->named[index];
      if (token && !(given_[index] && recognize(&*token)) && !added.count(spelling(*token)) &&
          files->vocabulary.find(spelling(*token)) < 0) {
        throw Error(SQUEEZEBERT_BAD_FILE,
                    folder_ + ": the vocabulary has no " + quoted(spelling(*token)) + " (" + kTokenNames[index] + ")");
      }
    }
  }

  std::string folder_;
  std::optional<Json> pipeline_, config_, special_;
  std::array<bool, kNamedTokens> given_{};  // which tokens a file names
};

}  // namespace

const std::string& spelling(const SpecialToken& token) {
  const auto* added = std::get_if<AddedToken>(&token);
  return added ? added->content : std::get<std::string>(token);
}

TokenizerFiles read_tokenizer_files(const std::string& folder) { return Reader(folder).read(); }

}  // namespace squeezebert
