#include "utf8.h"

namespace squeezebert {
namespace {

constexpr size_t kMostQuoted = 80;  // bytes

// The length of the valid sequence at the start of `text`, which isn't empty; 0 if there is none.
// Unicode's table 3-7, which leaves out overlong forms, surrogates and what is beyond U+10FFFF by the second byte.
size_t valid_length(std::string_view text) {
  const auto byte = [&](size_t at) { return static_cast<unsigned char>(text[at]); };
  const unsigned char first = byte(0);
  if (first < 0x80) return 1;
  if (first < 0xC2 || first > 0xF4) return 0;
  const size_t length = first < 0xE0 ? 2 : first < 0xF0 ? 3 : 4;
  if (text.size() < length) return 0;
  const unsigned char least = first == 0xE0 ? 0xA0 : first == 0xF0 ? 0x90 : 0x80;
  const unsigned char most = first == 0xED ? 0x9F : first == 0xF4 ? 0x8F : 0xBF;
  if (byte(1) < least || byte(1) > most) return 0;
  for (size_t at = 2; at < length; ++at) {
    if (begins_code_point(text[at])) return 0;
  }
  return length;
}

}  // namespace

size_t find_malformed(std::string_view text) {
  for (size_t at = 0; at < text.size();) {
    const size_t length = valid_length(text.substr(at));
    if (length == 0) return at;
    at += length;
  }
  return std::string_view::npos;
}

char32_t code_point_before(std::string_view text, size_t end, size_t* begin) {
  size_t at = end - 1;
  while (!begins_code_point(text[at])) --at;
  *begin = at;
  return next_code_point(text, &at);
}

void append_code_point(char32_t code, std::string* text) {
  const auto tail = [&](int shift) { text->push_back(static_cast<char>(0x80 | (code >> shift & 0x3F))); };
  if (code < 0x80) {
    text->push_back(static_cast<char>(code));
  } else if (code < 0x800) {
    text->push_back(static_cast<char>(0xC0 | code >> 6));
    tail(0);
  } else if (code < 0x10000) {
    text->push_back(static_cast<char>(0xE0 | code >> 12));
    tail(6);
    tail(0);
  } else {
    text->push_back(static_cast<char>(0xF0 | code >> 18));
    tail(12);
    tail(6);
    tail(0);
  }
}

std::string quoted(std::string_view text) {
  constexpr char kDigits[] = "0123456789abcdef";
  std::string result = "'";
  for (size_t at = 0; at < text.size();) {
    if (result.size() > kMostQuoted) return result + "...'";
    const size_t length = valid_length(text.substr(at));
    const auto first = static_cast<unsigned char>(text[at]);
    // Of two bytes, U+0080 to U+009F are control characters too.
    const bool control = first < 0x20 || first == 0x7F ||
                         (length == 2 && first == 0xC2 && static_cast<unsigned char>(text[at + 1]) < 0xA0);
    if (length == 0 || control) {
      result += {'\\', 'x', kDigits[first >> 4], kDigits[first & 15]};
      at += 1;
      if (length == 2) {  // the rest of that control character
        const auto second = static_cast<unsigned char>(text[at]);
        result += {'\\', 'x', kDigits[second >> 4], kDigits[second & 15]};
        at += 1;
      }
    } else {
      result.append(text, at, length);
      at += length;
    }
  }
  return result + "'";
}

}  // namespace squeezebert
