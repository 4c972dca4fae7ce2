// JSON documents, and all that can be asked of a value.
#include "../runtime/text/json.h"

#include <string>

#include "../runtime/text/utf8.h"
#include "support.h"

namespace {

using squeezebert::JsonValue;
using squeezebert::fuzz::answers;
using squeezebert::fuzz::require;

void ask(const JsonValue& value) {
  require(squeezebert::find_malformed(value.summary()) == std::string_view::npos, "a summary isn't UTF-8");
  answers([&] { value.boolean(); });
  answers([&] { value.number(); });
  answers([&] { value.integer(); });
  answers([&] { value.integer(0, 10); });
  answers([&] { value.find("a"); });
  answers([&] { value.at("a"); });
  if (value.is_string()) {
    require(squeezebert::find_malformed(value.string()) == std::string_view::npos, "a string isn't UTF-8");
  }
  if (value.is_object()) {
    value.for_each_member([&](std::string_view name, const JsonValue& member) {
      require(value.find(name).has_value(), "a member isn't found");
      ask(member);
    });
  }
  if (value.is_array()) value.for_each_element(ask);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  // Each answer but the first may search the whole document for its place.
  if (size > 4096) return 0;
  answers([&] {
    const std::string text(squeezebert::fuzz::text_of(data, size));
    ask(squeezebert::Json::parse(text, "fuzz.json").root());
  });
  return 0;
}
