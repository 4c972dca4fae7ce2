#include "json_text.h"

#include <cstdio>
#include <cstdlib>

namespace squeezebert_run {

std::string one_field(std::string_view text) {
  std::string escaped;
  for (const char c : text) {
    if (static_cast<unsigned char>(c) < 0x20) {
      char escape[8];
      std::snprintf(escape, sizeof escape, "\\u%04x", static_cast<unsigned>(c));
      escaped += escape;
    } else {
      escaped += c;
    }
  }
  return escaped;
}

std::string json_string(std::string_view text) {
  std::string quoted = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') quoted += '\\';
    quoted += c;
  }
  return one_field(quoted + "\"");
}

std::string number(float value) {
  char text[32];
  for (int digits = 6; digits <= 9; ++digits) {  // 9 are always enough
    std::snprintf(text, sizeof text, "%.*g", digits, static_cast<double>(value));
    if (std::strtof(text, nullptr) == value) break;
  }
  return text;
}

}  // namespace squeezebert_run
