// What BERT's tokenizers ask of a character. The tables are those of the Python package's tokenizers, see
// generate_unicode_tables.py.
#pragma once
#include <cstdint>
#include <string_view>

namespace squeezebert {

// Bits of character_classes().
enum CharacterClass : uint8_t {
  kRemoved = 1 << 0,  // control characters and the like, but for whitespace
  kWhitespace = 1 << 1,
  kChinese = 1 << 2,  // what BERT calls so: each a word of its own
  kPunctuation = 1 << 3,
  kAccent = 1 << 4,      // nonspacing marks
  kWord = 1 << 5,        // what a regular expression calls \w
  kDecomposes = 1 << 6,  // has a canonical decomposition
  kHasLowerCase = 1 << 7,
};

uint8_t character_classes(char32_t code);

// Where canonical ordering puts a mark among others; 0 for what it doesn't move.
uint8_t combining_class(char32_t code);

// Some characters that stand for one. A view is of this object or of a table.
class CodePoints {
 public:
  explicit CodePoints(std::u32string_view table) : data_(table.data()), size_(static_cast<int>(table.size())) {}
  CodePoints(char32_t a, char32_t b, char32_t c, int size) : own_{a, b, c}, size_(size) {}

  const char32_t* begin() const { return data_ ? data_ : own_; }
  const char32_t* end() const { return begin() + size_; }

 private:
  char32_t own_[3]{};
  const char32_t* data_ = nullptr;
  int size_;
};

// The canonical decomposition, whole, of a character that kDecomposes.
CodePoints decomposition(char32_t code);

// The lower case of a character that kHasLowerCase: one character, or two for U+0130.
CodePoints lower_case(char32_t code);

}  // namespace squeezebert
