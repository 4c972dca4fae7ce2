#include "prompts.h"

namespace squeezebert {

std::string default_prompt(const JsonValue& about) {
  const auto name = about.find("default_prompt_name"), prompts = about.find("prompts");
  if (!name || name->is_null()) return "";
  const auto prompt = prompts && prompts->is_object() ? prompts->find(name->string()) : std::nullopt;
  if (!prompt) name->refuse("one of the prompts");
  return prompt->is_null() ? "" : std::string(prompt->string());
}

}  // namespace squeezebert
