// Text to ids: BERT's WordPiece tokenizer, with the ids that the Python package's SqueezeBertTokenizer and
// SqueezeBertTokenizerFast give.
#pragma once
#include <cstdint>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace squeezebert {

// What a model is given of one text, or of two: [CLS] text [SEP], [CLS] text [SEP] second [SEP].
struct Encoding {
  std::vector<int64_t> ids;
  std::vector<int64_t> token_types;  // 1 for the second text and its [SEP], else 0
};

// Never changes once it is made: threads may share it. All functions throw Error (../status.h), and std::bad_alloc.
class Tokenizer {
 public:
  static constexpr int64_t kUnlimited = std::numeric_limits<int64_t>::max();

  // Of the folder's tokenizer.json or vocab.txt, tokenizer_config.json, special_tokens_map.json and added_tokens.json,
  // as Python's from_pretrained reads them. A tokenizer of another kind (BPE, SentencePiece) is
  // SQUEEZEBERT_UNSUPPORTED.
  explicit Tokenizer(const std::string& folder);
  ~Tokenizer();
  Tokenizer(Tokenizer&&) noexcept;
  Tokenizer& operator=(Tokenizer&&) noexcept;

  // Rows of more than max_length ids are shortened as by Python's truncation="longest_first"; kUnlimited for none.
  // Memory is bounded by the text's size; with a max_length, ids beyond it take none. A NUL is dropped, as by Python.
  // Text that isn't UTF-8 is SQUEEZEBERT_BAD_TEXT, by a message that names the byte.
  Encoding encode(std::string_view text, const std::string_view* second, int64_t max_length) const;

  int64_t size() const;              // the highest id that a text can get, and 1: an embedding needs as many rows
  int64_t model_max_length() const;  // of the files; kUnlimited where they say none
  int64_t mask_id() const;           // -1 where the tokenizer has no such token, in pad_id() too
  int64_t pad_id() const;

  // The token of an id, as Python's convert_ids_to_tokens gives it; nothing for an id without one. It lives as long as
  // the tokenizer.
  std::optional<std::string_view> token(int64_t id) const;

 private:
  struct Parts;
  std::unique_ptr<const Parts> parts_;
};

}  // namespace squeezebert
