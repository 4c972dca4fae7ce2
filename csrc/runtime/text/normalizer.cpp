#include "normalizer.h"

#include <algorithm>

#include "unicode.h"
#include "utf8.h"

namespace squeezebert {

// Takes cleaned characters one by one, and writes what becomes of them.
class Normalizer::Writer {
 public:
  Writer(const Normalizer& options, std::string* text) : options_(options), text_(text) {}

  void put(char32_t code, uint8_t classes) {
    if (!options_.strip_accents_) return write(code, classes);
    if ((classes & kDecomposes) == 0) return put_part(code, classes);
    for (const char32_t part : decomposition(code)) put_part(part, character_classes(part));
  }

  // Marks that stay although accents are stripped change places, by canonical ordering, until the next character that
  // isn't a mark.
  void flush() {
    if (marks_.empty()) return;
    std::stable_sort(marks_.begin(), marks_.end(), [](const Mark& a, const Mark& b) { return a.place < b.place; });
    for (const Mark& mark : marks_) write(mark.code, character_classes(mark.code));
    marks_.clear();
  }

 private:
  struct Mark {
    char32_t code;
    uint8_t place;
  };

  void put_part(char32_t code, uint8_t classes) {
    constexpr char32_t kFirstMark = 0x300;
    const uint8_t place = code < kFirstMark ? 0 : combining_class(code);
    if (place == 0) flush();  // an accent too keeps the marks on its two sides apart
    if (classes & kAccent) return;
    if (place == 0) return write(code, classes);
    marks_.push_back({code, place});
  }

  void write(char32_t code, uint8_t classes) {
    if (!options_.lower_case_ || (classes & kHasLowerCase) == 0) return append_code_point(code, text_);
    for (const char32_t part : squeezebert::lower_case(code)) append_code_point(part, text_);
  }

  const Normalizer& options_;
  std::string* text_;
  std::vector<Mark> marks_;
};

std::string Normalizer::operator()(std::string_view text) const {
  std::string result;
  result.reserve(text.size());
  Writer writer(*this, &result);
  for (size_t at = 0; at < text.size();) {
    const char32_t code = next_code_point(text, &at);
    const uint8_t classes = character_classes(code);
    const bool apart = (classes & kChinese) && split_chinese_;
    if (classes & kRemoved) continue;
    if (classes & kWhitespace) {
      writer.put(U' ', 0);
      continue;
    }
    if (apart) writer.put(U' ', 0);
    writer.put(code, classes);
    if (apart) writer.put(U' ', 0);
  }
  writer.flush();
  return result;
}

}  // namespace squeezebert
