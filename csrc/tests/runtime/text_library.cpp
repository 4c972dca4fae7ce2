// The runtime's text side for tests in Python, by ctypes: tests/runtime/text_library.py.
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <new>
#include <string>
#include <string_view>

#include "../../runtime/status.h"
#include "../../runtime/text/json.h"
#include "../../runtime/text/normalizer.h"
#include "../../runtime/text/tokenizer.h"
#include "../../runtime/text/utf8.h"

namespace {

using squeezebert::Error;
using squeezebert::Tokenizer;

thread_local std::string message;  // of the last error
thread_local std::string output;

// What work() gives, or minus the error's code.
template <class Work>
int64_t guarded(Work work) {
  try {
    return work();
  } catch (const Error& error) {
    message = error.what();
    return -error.code();
  } catch (const std::bad_alloc&) {
    message = "out of memory";
    return -SQUEEZEBERT_NO_MEMORY;
  }
}

}  // namespace

#define EXPORT extern "C" __attribute__((visibility("default")))

EXPORT const char* last_message() { return message.c_str(); }
EXPORT const char* last_output() { return output.data(); }

EXPORT int64_t tokenizer_open(const char* folder, Tokenizer** tokenizer) {
  return guarded([&] {
    *tokenizer = new Tokenizer(folder);
    return 0;
  });
}

EXPORT void tokenizer_close(Tokenizer* tokenizer) { delete tokenizer; }

// Writes ids and token types, and gives how many there are.
EXPORT int64_t tokenizer_encode(const Tokenizer* tokenizer, const char* text, int64_t size, const char* second,
                                int64_t second_size, int64_t max_length, int64_t* ids, int64_t* types, int64_t room) {
  return guarded([&] {
    const std::string_view first(text, static_cast<size_t>(size));
    std::string_view other;
    if (second) other = {second, static_cast<size_t>(second_size)};
    const auto row =
        tokenizer->encode(first, second ? &other : nullptr, max_length < 0 ? Tokenizer::kUnlimited : max_length);
    const auto count = static_cast<int64_t>(row.ids.size());
    if (count > room) throw Error(SQUEEZEBERT_INTERNAL, "no room for " + std::to_string(count) + " ids");
    std::memcpy(ids, row.ids.data(), row.ids.size() * sizeof(int64_t));
    std::memcpy(types, row.token_types.data(), row.token_types.size() * sizeof(int64_t));
    return count;
  });
}

EXPORT int64_t tokenizer_number(const Tokenizer* tokenizer, int which) {
  switch (which) {
    case 0:
      return tokenizer->size();
    case 1:
      return tokenizer->model_max_length();
    case 2:
      return tokenizer->mask_id();
    default:
      return tokenizer->pad_id();
  }
}

// The size of last_output(), -1 for no token.
EXPORT int64_t tokenizer_token(const Tokenizer* tokenizer, int64_t id) {
  const auto token = tokenizer->token(id);
  if (!token) return -1;
  output = *token;
  return static_cast<int64_t>(output.size());
}

EXPORT int64_t normalize(const char* text, int64_t size, bool lower_case, bool strip_accents, bool split_chinese) {
  output = squeezebert::Normalizer(lower_case, strip_accents, split_chinese)({text, static_cast<size_t>(size)});
  return static_cast<int64_t>(output.size());
}

EXPORT int64_t malformed(const char* text, int64_t size) {
  const size_t at = squeezebert::find_malformed({text, static_cast<size_t>(size)});
  return at == std::string_view::npos ? -1 : static_cast<int64_t>(at);
}

// Reads the document and visits all of it: last_output() is each value's place and summary, in lines.
EXPORT int64_t json_outline(const char* text, int64_t size) {
  return guarded([&] {
    const auto document = squeezebert::Json::parse(std::string(text, static_cast<size_t>(size)), "test.json");
    output.clear();
    const auto visit = [](const squeezebert::JsonValue& value, const auto& self) -> void {
      output += value.place() + " is " + value.summary() + "\n";
      if (value.is_object()) value.for_each_member([&](std::string_view, const auto& member) { self(member, self); });
      if (value.is_array()) value.for_each_element([&](const auto& element) { self(element, self); });
    };
    visit(document.root(), visit);
    return static_cast<int64_t>(output.size());
  });
}
