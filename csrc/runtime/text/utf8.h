// UTF-8: what is valid, its code points, and text from outside in messages.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace squeezebert {

// Where the first sequence begins that isn't valid (overlong, a surrogate, beyond U+10FFFF, cut short); npos if none.
size_t find_malformed(std::string_view text);

// The code point that begins at text[*at], which moves behind it. Of valid text alone.
inline char32_t next_code_point(std::string_view text, size_t* at) {
  const auto byte = [&](size_t offset) { return static_cast<unsigned char>(text[*at + offset]); };
  const unsigned char first = byte(0);
  if (first < 0x80) {
    *at += 1;
    return first;
  }
  char32_t code;
  if (first < 0xE0) {
    code = (first & 0x1Fu) << 6 | (byte(1) & 0x3Fu);
    *at += 2;
  } else if (first < 0xF0) {
    code = (first & 0x0Fu) << 12 | (byte(1) & 0x3Fu) << 6 | (byte(2) & 0x3Fu);
    *at += 3;
  } else {
    code = (first & 0x07u) << 18 | (byte(1) & 0x3Fu) << 12 | (byte(2) & 0x3Fu) << 6 | (byte(3) & 0x3Fu);
    *at += 4;
  }
  return code;
}

// Whether a code point begins at this byte of valid text.
inline bool begins_code_point(char byte) { return (static_cast<unsigned char>(byte) & 0xC0) != 0x80; }

// The code point that ends where text[end] begins, and where it begins itself. Of valid text alone, end > 0.
char32_t code_point_before(std::string_view text, size_t end, size_t* begin);

void append_code_point(char32_t code, std::string* text);

// For messages, in quotes: what isn't printable ASCII escaped, unless it is valid UTF-8 beyond the control characters;
// what is long cut.
std::string quoted(std::string_view text);

}  // namespace squeezebert
