// Values as JSON, and as fields between tabs.
#pragma once
#include <string>
#include <string_view>

namespace squeezebert_run {

// "text", escaped. Bytes that are no UTF-8 are taken for what they are not, so it is for text that is.
std::string json_string(std::string_view text);

// The text with its control characters escaped as in JSON: a name with a tab or a newline stays one field of one line.
std::string one_field(std::string_view text);

// The shortest decimal number that reads as the same float.
std::string number(float value);

}  // namespace squeezebert_run
