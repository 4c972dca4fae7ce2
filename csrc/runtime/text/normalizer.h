// What BERT makes of a text before it looks for words: cleaned, its Chinese characters set apart, accents stripped,
// lower-cased. The Rust library tokenizers calls it BertNormalizer.
#pragma once
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace squeezebert {

class Normalizer {
 public:
  Normalizer(bool lower_case, bool strip_accents, bool split_chinese)
      : lower_case_(lower_case), strip_accents_(strip_accents), split_chinese_(split_chinese) {}

  // Of valid UTF-8, which it gives too. A text may be normalized in parts that are cut beside whitespace.
  std::string operator()(std::string_view text) const;

 private:
  class Writer;

  bool lower_case_, strip_accents_, split_chinese_;
};

}  // namespace squeezebert
